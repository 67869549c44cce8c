"""`make bench`: compare Dropcap with alternatives, in one run on one machine."""
