#!/bin/sh
# State of a SLURM job: running, success or failed. SLURM forgets an ended job after 300 s (MinJobAge). If the controller
# does not answer, the job counts as running.
state=$(scontrol --oneliner show job "$1" 2>&1)
case $state in
*JobState=COMPLETED*) echo success ;;
*JobState=PENDING* | *JobState=CONFIGURING* | *JobState=RUNNING* | *JobState=COMPLETING* | *JobState=SUSPENDED* | \
    *JobState=REQUEUED* | *JobState=RESIZING* | *JobState=STOPPED* | *JobState=PREEMPTED*) echo running ;;
*JobState=* | *"Invalid job id"*) echo failed ;;
*) echo running ;;
esac
