"""A sweep's results on their way home through a log, where nothing but a log can be read.

`contents`  which files belong to it, and which of them are at home already
`pack`      there: what has changed, as an archive
`wire`      the archive as lines of text, and back
`unpack`    here: the files put in their places, whole
"""
