"""What `python main.py --model ...` does: two tasks of random samples."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from backbone import MammothBackbone
from models import REGISTERED_MODELS
from utils.training import evaluate, train

first = ArgumentParser()
first.add_argument("--model", required=True)
name = first.parse_known_args()[0].model
parser = REGISTERED_MODELS[name].get_parser(ArgumentParser())
parser.add_argument("--model")
parser.add_argument("--lr", type=float, required=True)
args = parser.parse_args()
torch.manual_seed(0)
tasks = [
    [(torch.randn(8, 5), torch.randint(3, (8,)), torch.zeros(8, 5)) for _ in range(3)]
    for _ in range(2)
]
model = REGISTERED_MODELS[name](MammothBackbone(5, 4, 3), F.cross_entropy, args, None)
train(model, tasks)
print(f"accuracy of {name}: {evaluate(model, *tasks[0][0][:2]):.2f}")
