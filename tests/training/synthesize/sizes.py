"""The small log's arguments, for those who make it again."""

SMALL = {"users": 30, "ads": 100, "events_per_user": 40, "seed": 5}
