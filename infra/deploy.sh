#!/bin/sh
# Deploy Dropcap with gcloud: PROJECT=my-project DATABASE_URL=postgresql://... GEMINI_API_KEY=... make deploy
# Running it again changes only what differs.
set -eu

: "${PROJECT:?say which project: make deploy PROJECT=my-project}"
: "${DATABASE_URL:?say which PostgreSQL: DATABASE_URL=postgresql://user:password@host/name}"
REGION=${REGION:-europe-west1}
UPLOADS_BUCKET=${UPLOADS_BUCKET:-$PROJECT-uploads}
PICTURES_BUCKET=${PICTURES_BUCKET:-$PROJECT-pictures}
QUARANTINE_BUCKET=${QUARANTINE_BUCKET:-$PROJECT-quarantine}
AUTH=${AUTH:-iam}
DOOR=--no-allow-unauthenticated # takes away what a deployment with AUTH=token had allowed
if [ "$AUTH" = token ]; then
    : "${AUTH_AUDIENCE:?say whose tokens: AUTH_AUDIENCE=OAUTH-CLIENT-ID or a Firebase project id}"
    DOOR=--allow-unauthenticated # whoever calls shows an ID token, which the function itself checks
fi
export CLOUDSDK_CORE_PROJECT="$PROJECT"
ACCOUNT=dropcap@$PROJECT.iam.gserviceaccount.com

say() { printf '\n%s\n' "$*"; }

say "1/6 Services"
gcloud services enable cloudfunctions.googleapis.com run.googleapis.com cloudbuild.googleapis.com \
    artifactregistry.googleapis.com eventarc.googleapis.com pubsub.googleapis.com storage.googleapis.com \
    secretmanager.googleapis.com cloudscheduler.googleapis.com

say "2/6 Buckets: private, with one access rule for the whole bucket"
for bucket in "$UPLOADS_BUCKET" "$PICTURES_BUCKET" "$QUARANTINE_BUCKET"; do
    gcloud storage buckets describe "gs://$bucket" --format='value(name)' >/dev/null 2>&1 ||
        gcloud storage buckets create "gs://$bucket" --location="$REGION" \
            --uniform-bucket-level-access --public-access-prevention
done

say "3/6 Account: it may use these buckets, receive events, and nothing else"
gcloud iam service-accounts describe "$ACCOUNT" --format='value(email)' >/dev/null 2>&1 ||
    gcloud iam service-accounts create dropcap --display-name=Dropcap
for bucket in "$UPLOADS_BUCKET" "$PICTURES_BUCKET" "$QUARANTINE_BUCKET"; do
    gcloud storage buckets add-iam-policy-binding "gs://$bucket" \
        --member="serviceAccount:$ACCOUNT" --role=roles/storage.objectUser --format=none
done
gcloud projects add-iam-policy-binding "$PROJECT" \
    --member="serviceAccount:$ACCOUNT" --role=roles/eventarc.eventReceiver --condition=None --format=none
# A storage trigger publishes through Cloud Storage's own account, which gcloud does not grant by itself.
AGENT=$(gcloud storage service-agent --project="$PROJECT")
gcloud projects add-iam-policy-binding "$PROJECT" \
    --member="serviceAccount:$AGENT" --role=roles/pubsub.publisher --condition=None --format=none

say "4/6 Secrets"
secret() {
    gcloud secrets describe "$1" --format='value(name)' >/dev/null 2>&1 ||
        gcloud secrets create "$1" --replication-policy=automatic
    held=$(gcloud secrets versions access latest --secret="$1" 2>/dev/null || true)
    [ "$held" = "$2" ] || printf '%s' "$2" | gcloud secrets versions add "$1" --data-file=-
    gcloud secrets add-iam-policy-binding "$1" \
        --member="serviceAccount:$ACCOUNT" --role=roles/secretmanager.secretAccessor --format=none
}
secret dropcap-database-url "$DATABASE_URL"
SECRETS=DATABASE_URL=dropcap-database-url:latest
if [ -n "${GEMINI_API_KEY:-}" ]; then
    secret dropcap-gemini-api-key "$GEMINI_API_KEY"
    SECRETS=$SECRETS,GEMINI_API_KEY=dropcap-gemini-api-key:latest
fi

# 1 vCPU with 512 MiB, as the default of a third would make BLIP three times slower; one request at a time,
# as two pictures need twice the memory; few instances, as each holds a database connection and costs money.
ENVIRONMENT="UPLOADS_BUCKET=$UPLOADS_BUCKET;PICTURES_BUCKET=$PICTURES_BUCKET;QUARANTINE_BUCKET=$QUARANTINE_BUCKET"
ENVIRONMENT="$ENVIRONMENT;AUTH=$AUTH;AUTH_AUDIENCE=${AUTH_AUDIENCE:-};MAX_PER_HOUR=${MAX_PER_HOUR:-300}"
deploy() {
    name=$1 entry_point=$2
    shift 2
    gcloud functions deploy "$name" --gen2 --region="$REGION" --runtime=python313 --source=functions \
        --entry-point="$entry_point" --service-account="$ACCOUNT" --concurrency=1 --max-instances=5 \
        --set-env-vars="^;^$ENVIRONMENT" \
        --set-secrets="$SECRETS" --quiet "$@"
}

say "5/6 Functions"
deploy dropcap-on-upload on_upload --memory=512Mi --cpu=1 --timeout=540s --retry --ingress-settings=internal-only \
    --trigger-bucket="$UPLOADS_BUCKET" --trigger-location="$REGION" --trigger-service-account="$ACCOUNT"
deploy dropcap-analyze analyze --memory=512Mi --cpu=1 --timeout=540s --trigger-http "$DOOR"
deploy dropcap-sweep sweep --memory=512Mi --cpu=1 --timeout=540s --trigger-http --no-allow-unauthenticated
deploy dropcap-get-progress-stats get_progress_stats --memory=256Mi --cpu=1 --timeout=30s --trigger-http \
    "$DOOR"

say "6/6 The event and the schedule may call their functions"
for function in on-upload sweep; do
    gcloud run services add-iam-policy-binding "dropcap-$function" --region="$REGION" \
        --member="serviceAccount:$ACCOUNT" --role=roles/run.invoker --format=none
done
VERB=create
gcloud scheduler jobs describe dropcap-sweep --location="$REGION" --format='value(name)' >/dev/null 2>&1 && VERB=update
SWEEP=https://$REGION-$PROJECT.cloudfunctions.net/dropcap-sweep
gcloud scheduler jobs "$VERB" http dropcap-sweep --location="$REGION" --schedule='*/10 * * * *' --uri="$SWEEP" \
    --http-method=POST --attempt-deadline=540s --oidc-service-account-email="$ACCOUNT" \
    --oidc-token-audience="$SWEEP"

say "Done. Drop a picture: gcloud storage cp photo.jpg gs://$UPLOADS_BUCKET/ana/photo.jpg"
