#!/bin/sh
# What became of a job of SLURM: running, success or failed. SLURM forgets an ended job after 300 s (MinJobAge); while its
# controller does not answer, nothing is known to have ended.
found=$(scontrol --oneliner show job "$1" 2>&1)
case $found in
*JobState=COMPLETED*) echo success ;;
*JobState=PENDING* | *JobState=CONFIGURING* | *JobState=RUNNING* | *JobState=COMPLETING* | *JobState=SUSPENDED* | \
    *JobState=REQUEUED* | *JobState=RESIZING* | *JobState=STOPPED* | *JobState=PREEMPTED*) echo running ;;
*JobState=* | *"Invalid job id"*) echo failed ;;
*) echo running ;;
esac
