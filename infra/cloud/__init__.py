"""What runs in Google Cloud: its deployment, by plain gcloud commands, and what an operator watches.

    resources.py   all that exists in the cloud, top to bottom, each with its reason
    rights.py      who may do what, and why
    config.py      what can be set
    functions.py, buckets.py, events.py, ...   how one kind of resource is read, made and changed
    cloud.py       what is there
    plan.py        what differs from what is wanted; apply.py does it
    gcloud.py      commands; refusals.py says what to do about what they refuse
    __main__.py    the commands of make; after.py, gallery.py and verify.py are what comes after a deployment

Begin to read in resources.py.
"""


class CloudError(Exception):
    """What can't be done: one line that says what is wrong and what to do about it."""
