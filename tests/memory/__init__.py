"""`make prove`: the deployed function in the memory of its instance, which the kernel enforces."""
