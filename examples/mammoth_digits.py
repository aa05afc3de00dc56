"""Mammoth with clfast in it. Run it by hand in a checkout of Mammoth 0.2.2, where its main.py lies,
with Mammoth's own command line:

    run="python .../mammoth_digits.py --dataset seq-mnist --lr 0.03"
    $run --model clfast-ewc --clfast '{"strength": 100}'
    $run --model clfast-hebb --clfast '{"k": 50}'
    $run --model er --buffer_size 200

The last is Mammoth's own experience replay, with its buffer patched; Mammoth downloads MNIST.
"""

import runpy
import sys
from pathlib import Path

from clfast.integrations import mammoth


def main() -> None:
    if not Path("main.py").is_file():
        sys.exit("mammoth_digits.py: run it in the folder of Mammoth's main.py")
    sys.path.insert(0, str(Path.cwd()))
    print("models of clfast:", ", ".join(mammoth.register()))
    with mammoth.patch_buffer() as patch:
        print(patch)
        runpy.run_path("main.py", run_name="__main__")


if __name__ == "__main__":
    main()
