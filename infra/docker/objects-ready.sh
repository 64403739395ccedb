#!/bin/sh
# SeaweedFS's health check, and its set-up: makes the bucket, whose objects are synced to the disk before they are
# acknowledged. Ends with 0 once S3 answers and the bucket is there.
set -eu
wget -q -O /dev/null http://127.0.0.1:8333/healthz
echo s3.bucket.list | weed shell | grep -qw mymacro && exit 0
weed shell <<END
fs.configure -locationPrefix=/buckets/mymacro/ -fsync -apply
s3.bucket.create -name mymacro
END
exit 1
