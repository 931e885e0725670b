"""What `cargo xtask bench pickle` measures, one part a process; prints "NAME CPU_NS WALL_NS" lines.

    pickle_cost.py globals      nanoseconds a global: asked for the first time, and again
    pickle_cost.py import       import torch
    pickle_cost.py loader       a loop over a DataLoader with two workers
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


def of_loader():
    import resource

    import torch

    data = torch.utils.data.TensorDataset(torch.ones(20000, 8), torch.ones(20000))
    loader = torch.utils.data.DataLoader(data, batch_size=16, num_workers=2)
    total = torch.zeros(())

    def all_processes():
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return round(sum(use.ru_utime + use.ru_stime for use in uses) * 1e9), time.perf_counter_ns()

    before = all_processes()
    # The workers end with the loop, and their time counts then.
    for rows, _ in loader:
        total += rows.sum()
    report("loader", before, all_processes())


if __name__ == "__main__":
    {"globals": of_globals, "import": of_import, "loader": of_loader}[sys.argv[1]]()
