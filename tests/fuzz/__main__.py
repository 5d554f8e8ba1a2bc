"""Read mutated files through every reader, and report what is no clean refusal.

python tests/fuzz --per-reader 20000 # the whole campaign, hours

python tests/fuzz --readers png h5 --per-reader 100 --seed 1

Each case is a pure function of the seed, the reader and its number: `--readers h5 --case 1234 --keep folder` writes
the file of one case there. A finding is an exception that is no `InputError`, a message of several lines or with
control characters, a crash, more than 5 seconds, or more than 512 MiB of memory; status 1 says that there are some.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import fuzz_readers
from fuzz_campaign import campaign, report
from fuzz_worker import Bench


def main() -> int:
    """Run the campaign; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", nargs="+", default=list(fuzz_readers.READERS), metavar="READER")
    parser.add_argument("--per-reader", type=int, default=1000, help="mutated files for each reader")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--report", type=Path, help="write counts and findings to this JSON file")
    parser.add_argument("--case", type=int, help="write the file of this case of the one reader and stop")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-case"), help="where --case writes")
    args = parser.parse_args()
    if unknown := [name for name in args.readers if name not in fuzz_readers.READERS]:
        parser.error(f"no such reader: {unknown}; known are {', '.join(fuzz_readers.READERS)}")
    if args.case is not None:
        (name,) = args.readers
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, fuzz_readers.READERS[name], Path(folder) / "bench")
            path, content = bench.case(args.seed, args.case)
            args.keep.mkdir(parents=True, exist_ok=True)
            (args.keep / path.name).write_bytes(content)
        print(args.keep / path.name)
        return 0
    counts, findings = campaign(args.readers, args.per_reader, args.seed)
    report(counts, findings)
    if args.report is not None:
        said = {"seed": args.seed, "per_reader": args.per_reader, "counts": counts, "findings": findings}
        args.report.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
