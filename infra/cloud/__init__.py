"""Deploy to Google Cloud with plain gcloud commands.

    resources/     the resources of a deployment: declaration.py lists all with their reasons,
                   rights.py the roles; each other module handles one kind of resource
    monitoring/    metrics, alerts and a dashboard, as TOML tables
    gcloud/        runs gcloud and translates its errors, which known_errors.toml lists
    operations/    commands after a deployment: addresses, logs, verify, rollback, redescribe
    backfill/      puts existing objects of the bucket into a queue that calls on_upload
    config.py      the settings of a deployment
    deployed.py    reads them from the deployed resources; settings_file.py writes settings.mk
    inventory.py   reads the existing resources; plan.py compares them with the declaration,
                   apply.py makes the changes
    __main__.py    the commands of make

Start reading in resources/declaration.py.
"""


class CloudError(Exception):
    """An error that ends a command: one line with the problem and its remedy."""
