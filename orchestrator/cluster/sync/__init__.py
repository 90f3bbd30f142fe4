"""Copy a sweep's results from the cluster to this machine through the log of a job.

The dashboard's Jobs API offers no download, but it streams the log of a job: the head prints the
files that this machine lacks as lines of text, and this machine writes them into its folder.

`file_list`   which files of a sweep are copied, with their SHA-256
`pack`        on the head: an archive of the files that the receiver lacks
`log_stream`  the archive as lines of text, and back
`unpack`      on this machine: verify the archive and move its files into the folder
"""
