#!/bin/sh
# Use the server with curl alone: list the models, save an image, follow a stream, and see what an error looks like.
#
# Run:     sh examples/curl.sh
# Prints:  the ids of the models, the file written, the names of the stream's events, and an error's status and body.
set -eu
server=${SERVER_URL:-http://127.0.0.1:8000}

echo "Models:"
curl --silent --show-error --fail "$server/v1/models" | grep --only-matching '"id": *"[^"]*"'

# With Accept: image/png the answer is the file itself.
curl --silent --show-error --fail "$server/v1/images/generations" --output pullover.png \
  --header 'Content-Type: application/json' --header 'Accept: image/png' \
  --data '{"prompt": "pullover", "seed": 7, "size": "280x280"}'
echo "pullover.png: $(wc -c <pullover.png) bytes"

# --no-buffer shows every event when it arrives.
echo "Events:"
curl --silent --show-error --fail --no-buffer "$server/v1/images/generations" \
  --header 'Content-Type: application/json' \
  --data '{"prompt": "pullover", "seed": 7, "stream": true, "partial_images": 2}' | grep '^event:'

echo "An error:"
curl --silent --show-error "$server/v1/images/generations" --write-out '\n%{http_code}\n' \
  --header 'Content-Type: application/json' --data '{"prompt": "unicorn"}'
