"""Fuzz what reads hostile bytes: `make fuzz`. Every finding becomes a test.

corpus      real files of every format, small, and the words of the formats
parsers     our own parsers of pictures
inputs      events, requests, settings, XMP, and what a decoder's process answers
guided      runs one of these in a process of its own, guided by coverage (atheris)
mutations   changes real files at random, repeatably
decoding    sends changed files through the whole sandbox
"""
