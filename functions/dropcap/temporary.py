"""Names of objects that tools write for a while and delete themselves: parts of an upload, mostly.

Whoever analyzed, quarantined or deleted one would destroy the upload that it belongs to. Objects of these
names are left alone by events, sweep, backfill and gallery; the object that is composed of them at the end
is taken like any other. A prefix of a user's own choice (gcloud's property
`storage/parallel_composite_upload_component_prefix`, say) can't be known here: it belongs into EXCLUDE.
"""

import re

# Each with where it is from, looked up on 2026-11-30.
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
    """Return whether this is the name of a tool's temporary object."""
    return TEMPORARY.fullmatch(name) is not None
