"""Small genuine files of every format. The writers stand beside the tests: `from rlds_files import …`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
