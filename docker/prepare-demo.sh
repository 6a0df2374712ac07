#!/bin/sh
# From nothing to a bundle and a filled store; what a finished step left is used again, the store is filled anew.
#
# REDIS_URL  where the histories go       FOLDER       where log, dataset and run are kept
# BUNDLE     the bundle folder to write   MODEL        din, tin, diffumin, mean_pool or popularity
# IMPORT_FLAGS, TRAIN_FLAGS               further flags of `longsight import complete-journey` and `longsight train`
set -eu

# As in `longsight demo`: enough for a good model within minutes.
[ -n "$TRAIN_FLAGS" ] || case "$MODEL" in
    tin) TRAIN_FLAGS="--set history_length=500 --set epochs=2" ;;
    din) TRAIN_FLAGS="--set history_length=100 --set epochs=1" ;;
    diffumin) TRAIN_FLAGS="--set history_length=200 --set epochs=2" ;;
esac

made() {
    [ -e "$1" ] && echo "$1 is there already"
}

# The flags are words, not one word: unquoted on purpose.
made "$FOLDER/log/schema.toml" || longsight import complete-journey "$FOLDER/raw" "$FOLDER/log" $IMPORT_FLAGS
made "$FOLDER/dataset/dataset.json" || longsight prepare "$FOLDER/log" "$FOLDER/dataset"
made "$FOLDER/run-$MODEL/run.json" \
    || longsight train "$FOLDER/dataset" "$FOLDER/run-$MODEL" --model "$MODEL" $TRAIN_FLAGS
made "$BUNDLE/manifest.json" || longsight export "$FOLDER/run-$MODEL" "$BUNDLE"
longsight load "$FOLDER/log" --redis "$REDIS_URL"
