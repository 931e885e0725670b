"""What `cargo xtask bench pickle` measures, one part a process; prints "NAME CPU_NS WALL_NS" lines.

    pickle_cost.py globals      nanoseconds a global: asked for the first time, and again
    pickle_cost.py import       import torch
    pickle_cost.py loader       a loop over a DataLoader with two workers: images, cropped and scaled, 32 a batch
    pickle_cost.py tiny-loader  the same with batches of 16 rows of eight numbers, which are nearly all hand-over between processes

The loops go on until standard input ends. Their lines are "NAME CPU_NS WALL_NS BATCHES", some a second: used since the start, and the time of day.
"""

import io
import sys
import time
import types

COUNT = 2000
AGAIN = 20


def clock():
    return time.process_time_ns(), time.perf_counter_ns()


def report(name, before, after, per=1):
    print(name, *(round((late - early) / per) for early, late in zip(before, after)))


def of_globals():
    import _pickle

    module = types.ModuleType("saker_cost")
    sys.modules["saker_cost"] = module

    def model(prefix, count):
        for number in range(count):
            setattr(module, f"{prefix}{number}", len)
        return b"\x80\x02" + b"".join(b"csaker_cost\n%s%d\n0" % (prefix.encode(), number) for number in range(count)) + b"N."

    warm, measured = model("Warm", 100), model("Model", COUNT)
    for _ in range(20):
        _pickle.Unpickler(io.BytesIO(warm)).load()
    before = clock()
    _pickle.Unpickler(io.BytesIO(measured)).load()
    report("first", before, clock(), COUNT)
    before = clock()
    for _ in range(AGAIN):
        _pickle.Unpickler(io.BytesIO(measured)).load()
    report("again", before, clock(), COUNT * AGAIN)


def of_import():
    before = clock()
    import torch  # noqa: F401

    report("import", before, clock())


ENDLESS = 1 << 40


def images():
    import torch

    class Images(torch.utils.data.IterableDataset):
        stored = torch.arange(3 * 256 * 256).remainder(256).to(torch.uint8).reshape(3, 256, 256)

        def __iter__(self):
            for number in range(ENDLESS):
                top, left = number % 33, number % 31
                part = self.stored[:, top : top + 224, left : left + 224]
                yield (part.float() / 255 - 0.45) / 0.225, number % 1000

    return Images(), 32


def rows():
    import torch

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            row, label = torch.ones(8), torch.ones(())
            for _ in range(ENDLESS):
                yield row, label

    return Rows(), 16


def of_loader(name, made):
    import os
    import select
    import warnings

    import torch

    # On several cores the loop takes half as long again or not, as the scheduler places its three processes. On one the loader
    # finds two workers too many, and says so.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")

    data, size = made()
    batches = iter(torch.utils.data.DataLoader(data, batch_size=size, num_workers=2))
    total = torch.zeros(())

    def processor_time():
        """Of this process and its workers, all their threads, in nanoseconds (/proc/PID/schedstat)."""
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            processes = [os.getpid(), *map(int, file.read().split())]
        spent = 0
        for process in processes:
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/schedstat") as file:
                    spent += int(file.read().split()[0])
        return spent

    count, told = 0, 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        batch, _ = next(batches)
        total += batch.sum()
        count += 1
        now = time.time_ns()
        if now - told >= 200_000_000:
            told = now
            print(name, processor_time(), now, count, flush=True)


if __name__ == "__main__":
    parts = {
        "globals": of_globals,
        "import": of_import,
        "loader": lambda: of_loader("loader", images),
        "tiny-loader": lambda: of_loader("tiny-loader", rows),
    }
    parts[sys.argv[1]]()
