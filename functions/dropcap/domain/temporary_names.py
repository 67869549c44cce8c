"""Names of temporary objects that tools create and delete themselves, mostly parts of an upload.

Analyzing, quarantining or deleting one would destroy the upload that it belongs to. Events, reconcile,
backfill and gallery ignore such objects, and process the composed object like any other. A custom prefix,
such as gcloud's property `storage/parallel_composite_upload_component_prefix`, can't be known here: add it to
EXCLUDE.
"""

import re

# Each with its source, as of 2026-11-30.
PATTERNS = (
    # gcloud storage cp, mv and rsync: properties.py and copy_component_util.py of gcloud 528
    r"(.*/)?gcloud/tmp/parallel_composite_uploads/.*",
    # gsutil, after a random number: PARALLEL_UPLOAD_TEMP_NAMESPACE of gslib/utils/copy_helper.py, 5.34
    r"(.*/)?gsutil/tmp/parallel_composite_uploads/.*",
    # Cloud Storage FUSE: TmpObjectPrefix of cmd/mount.go in GoogleCloudPlatform/gcsfuse, v3
    r"(.*/)?\.gcsfuse_tmp/.*",
    # Google's Go client: tmpObjectPrefix of storage/pcu.go in googleapis/google-cloud-go
    r"gcs-go-sdk-pu-tmp/.*",
    # Google's Java client: PartNamingStrategy in ParallelCompositeUploadBlobWriteSessionConfig.java of
    # googleapis/java-storage: {random};{digest of the name};{range}.part
    r"(.*/)?[^/;]+;[^/;]+;[^/;]+\.part",
    # Google's C++ client: google/cloud/storage/parallel_upload.h in googleapis/google-cloud-cpp
    r".*\.(upload_shard_|compose-tmp-)[0-9]+",
    # Hadoop: GoogleHadoopSyncableOutputStream.java of the connector, RetriableFileCopyCommand.java of distcp
    r"(.*/)?(_GCS_SYNCABLE_TEMPFILE_|\.distcp\.tmp\.)[^/]*",
)
TEMPORARY = re.compile("|".join(PATTERNS), re.DOTALL)


def is_temporary(name: str) -> bool:
    """Return whether a name is that of a tool's temporary object."""
    return TEMPORARY.fullmatch(name) is not None
