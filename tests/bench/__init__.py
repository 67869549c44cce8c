"""`make bench`: Dropcap beside other ways to do the same, in one run on one machine."""
