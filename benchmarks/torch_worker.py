"""The same trainings in PyTorch, channels last, eager, as the authors' code runs: the other side of a comparison.

    python benchmarks/torch_worker.py baseline|dhm ARCH BATCH_SIZE

Written from the paper's tables (6, 7 and section F) and its loss; not the authors' files. On a GPU if PyTorch sees one.
Prints and reads as `training_worker.py`.
"""

import itertools
import json
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional

# kind, stem, (blocks, width) of each stage; of the branches the tap and the same of its own stages.
NETWORKS = {
    "resnet32": ("basic", 16, [(5, 16), (5, 32), (5, 64)], {2: [(5, 128)], 1: [(5, 32), (3, 64)]}),
    "densenet40": ("dense", 24, [(12, 12)] * 3, {2: [(12, 36)], 1: [(12, 12), (6, 12)]}),
    "densenet100": ("dense", 24, [(32, 12)] * 3, {2: [(32, 36)], 1: [(16, 12), (16, 12)]}),
    "wrn16_8": ("wide", 16, [(2, 128), (2, 256), (2, 512)], {2: [(2, 1024)], 1: [(2, 256), (1, 512)]}),
}


def conv(inputs, outputs, size=3, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class Basic(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        shortcut = functional.avg_pool2d(x, self.stride) if self.stride > 1 else x
        if self.more:
            zeros = shortcut.new_zeros(len(x), self.more, *shortcut.shape[2:])
            shortcut = torch.cat([shortcut, zeros.to(memory_format=torch.channels_last)], 1)
        return functional.relu(self.bn2(self.conv2(y)) + shortcut, inplace=True)


class Wide(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, stride=stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs)
        self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x):
        y = functional.relu(self.bn1(x), inplace=True)
        shortcut = self.shortcut(y) if self.shortcut else x
        return self.conv2(functional.relu(self.bn2(self.conv1(y)), inplace=True)) + shortcut


class Dense(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), conv(inputs, growth)

    def forward(self, x):
        return torch.cat([x, self.conv(functional.relu(self.bn(x), inplace=True))], 1)


def stage(kind, channels, number, blocks, width):
    """Stage `number` of 1 to 3, and the channels that leave it."""
    if kind != "dense":
        block = {"basic": Basic, "wide": Wide}[kind]
        widths, strides = [channels] + [width] * blocks, [2 if number > 1 else 1] + [1] * (blocks - 1)
        return nn.Sequential(*map(block, widths, widths[1:], strides)), width
    layers = [Dense(channels + width * i, width) for i in range(blocks)]
    channels += width * blocks
    if number < 3:
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), conv(channels, channels, 1), nn.AvgPool2d(2)]
    return nn.Sequential(*layers), channels


def head(kind, channels):
    before = [] if kind == "basic" else [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*before, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 100))


class Network(nn.Module):
    def __init__(self, arch, with_branches):
        super().__init__()
        kind, channels, stages, branches = NETWORKS[arch]
        after = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)] if kind == "basic" else []
        self.stem = nn.Sequential(conv(3, channels), *after)
        self.stages, self.branches = nn.ModuleList(), nn.ModuleDict()
        for number, (blocks, width) in enumerate(stages, 1):
            made, channels = stage(kind, channels, number, blocks, width)
            self.stages.append(made)
            if with_branches and number in branches:
                own, inside = [], channels
                for later, (blocks, width) in enumerate(branches[number], number + 1):
                    made, inside = stage(kind, inside, later, blocks, width)
                    own.append(made)
                self.branches[str(number)] = nn.Sequential(*own, head(kind, inside))
        self.main = head(kind, channels)

    def forward(self, x):
        x, logits = self.stem(x), []
        for number, part in enumerate(self.stages, 1):
            x = part(x)
            if str(number) in self.branches:
                logits.append(self.branches[str(number)](x))
        return [self.main(x), *logits]


def step(network, optimizer, images, labels):
    logits = network(images)
    loss = sum(functional.cross_entropy(z, labels) for z in logits)
    for teacher, student in itertools.permutations(logits, 2):
        p = functional.softmax(teacher, 1).detach()
        loss = loss + (p * (torch.log(p + 1e-8) - functional.log_softmax(student, 1))).sum(1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for z in logits:  # top-1 and top-5
        (z.topk(5, 1).indices == labels[:, None]).sum(0)
    return loss.item()


def main(way, arch, batch_size):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Network(arch, way == "dhm").to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(int(batch_size), 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 100, (int(batch_size),), device=device)

    def take(count):
        ends = [time.perf_counter()]
        for _ in range(count):
            step(network, optimizer, images, labels)
            ends.append(time.perf_counter())
        return [end - start for start, end in itertools.pairwise(ends)]

    take(1)
    parameters = sum(p.numel() for p in network.parameters())
    print(json.dumps({"torch": torch.__version__, "device": device, "parameters": parameters}), flush=True)
    for line in sys.stdin:
        seconds = take(1 + int(line))[1:]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "GiB": memory}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
