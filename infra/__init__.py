"""Where Dropcap runs: Google Cloud by gcloud, or the local stack."""
