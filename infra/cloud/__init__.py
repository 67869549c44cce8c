"""The deployment to Google Cloud, by plain gcloud commands.

    resources/     what exists in the cloud: declaration.py lists all, each with its reason;
                   rights.py says who may do what; the others say how a kind of resource is read and changed
    monitoring/    what an operator watches: metrics, alerts and a dashboard, as tables
    gcloud/        commands and their refusals; claims.toml says what each refusal means
    operations/    what comes after a deployment: addresses, logs, a check, a rollback
    config.py      what can be set; deployed.py reads back what is set, settings_file.py keeps it for make
    inventory.py   what is there; plan.py compares it with what is wanted, apply.py makes the changes
    backfill.py    sends what already lies in a bucket through the queue
    __main__.py    the commands of make

Begin to read in resources/declaration.py.
"""


class CloudError(Exception):
    """An error that ends a command: one line that says what is wrong and what to do about it."""
