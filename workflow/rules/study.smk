# The study file: checked first, since Snakemake's own reader lets some damage pass and meets other with a traceback.
import os
import sys

from lmpipe.errors import InputError
from lmpipe.study.loader import read_study_file

DEFAULT_STUDY = os.path.join(workflow.basedir, "config", "config.yaml")

try:
    for path in workflow.configfiles or [DEFAULT_STUDY]:
        read_study_file(os.path.relpath(path))
except InputError as error:
    sys.exit(str(error))

# A study file is complete in itself, so the default study is loaded only where no other was named.
if not workflow.overwrite_configfiles:

    configfile: DEFAULT_STUDY
