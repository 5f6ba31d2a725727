"""What happens when hhchat is killed, crowded, or out of disk: nothing that was shown is lost."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks import hard_chat, hard_disk, hard_together, hard_train
from benchmarks.common import Bar, bars_table, chosen, parser, report_of

RUNS = {
    "chat": hard_chat.run_kills,
    "train": hard_train.run_kills,
    "together": hard_together.run_together,
    "disk": hard_disk.run_disk,
}


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("hard", __doc__ or "")
    made.add_argument("--parts", default=",".join(RUNS), help=f"of {', '.join(RUNS)}")
    made.add_argument("--kills", type=int, default=100, help="times the chat is killed")
    made.add_argument("--train-kills", type=int, default=20, help="times PM and PPO are killed")
    made.add_argument("--seconds", type=float, default=120, help="how long all run at once")
    made.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = made.parse_args(arguments)
    parts = chosen(options.parts, tuple(RUNS), "part")
    if options.smoke:
        options.kills, options.train_kills, options.seconds = 6, 2, 10
    report = report_of("hard", options)
    faults = 0
    for part in parts:
        began = time.monotonic()
        wrong = RUNS[part](options, report)
        faults += len(wrong)
        for words in wrong[:20]:
            report.note(f"{part}: {words}")
        report.say(bars_table([Bar(f"{part}: faults", float(len(wrong)), 0, True, "")]))
        report.data[part] = {
            "took": time.monotonic() - began,
            "faults": wrong,
            "found": report.data.get(part),
        }
        report.save()
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
