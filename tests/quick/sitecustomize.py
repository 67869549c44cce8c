"""Speed up the start of Python processes of the tests, whose PYTHONPATH has this folder.

On a Python in its last year of support google-api-core looks through all packages that are installed, 0.3 s
at each start, for a name to be told in a warning that the tests ignore. It shall find none.
"""

import sys

if sys.version_info < (3, 12):
    from importlib import metadata

    metadata.packages_distributions = dict
