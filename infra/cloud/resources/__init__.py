"""What exists in the cloud: each kind of resource, the rights, and the declaration of a deployment."""
