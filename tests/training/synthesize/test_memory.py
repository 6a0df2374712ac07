"""Memory is that of a chunk, however many users there are."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
PEAK = """
import resource, sys
from pathlib import Path
from training.synthesize.log import synthesize
synthesize(Path(sys.argv[1]), users=int(sys.argv[2]), events_per_user=5, chunk_users=250)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mb(log, users):
    command = [sys.executable, "-c", PEAK, str(log), str(users)]
    return float(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)


def test_twelve_times_the_users_need_no_more_memory(tmp_path):
    few, many = peak_mb(tmp_path / "few", 1_000), peak_mb(tmp_path / "many", 12_000)
    assert many - few < 40  # about 15; the frames of the 11,000 more, kept, would add 50 to that
