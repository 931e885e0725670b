"""Saves one object that runs a program when it is loaded, with every library that models are saved with, and loads it with the same.

    hostile_libraries.py FOLDER [WAY...]     prints "WAY PID RAN", a process a way; all ways where none is named

What the payload does is leave FOLDER/ran-WAY.
"""

import contextlib
import gzip
import os
import pathlib
import pickle
import shelve
import sys
import zipfile

FOLDER = pathlib.Path(sys.argv[1])


class Evil:
    """Is not there after loading: what its file says is os.system(...)."""

    def __init__(self, way):
        self.way = way

    def __reduce__(self):
        return os.system, (f"touch {FOLDER}/ran-{self.way}",)


def saved(name, way, library=pickle):
    path = FOLDER / name
    path.write_bytes(library.dumps(Evil(way)))
    return path


def with_pickle(way):
    path = saved("model.pkl", way)
    return lambda: pickle.load(path.open("rb"))


def with_c_pickle(way):
    import _pickle

    path = saved("model-c.pkl", way, _pickle)
    return lambda: _pickle.Unpickler(path.open("rb")).load()


def with_subclass(way):
    """As most loaders that mean to restrict what they load: an override that asks the one it replaces."""

    class Loader(pickle.Unpickler):
        def find_class(self, module, name):
            return super().find_class(module, name)

    path = saved("model-sub.pkl", way)
    return lambda: Loader(path.open("rb")).load()


def with_python(way):
    """The unpickler that is written in Python."""
    path = saved("model-python.pkl", way)
    return lambda: pickle._Unpickler(path.open("rb")).load()


def with_shelve(way):
    with shelve.open(str(FOLDER / "shelf")) as shelf:
        shelf["model"] = Evil(way)

    def load():
        with shelve.open(str(FOLDER / "shelf"), "r") as shelf:
            return shelf["model"]

    return load


def with_gzip(way):
    path = FOLDER / "model.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(Evil(way))))
    return lambda: pickle.load(gzip.open(path))


def with_connection(way):
    import multiprocessing

    receiver, sender = multiprocessing.Pipe()
    sender.send(Evil(way))
    return receiver.recv


def with_torch_zip(way):
    import torch

    path = FOLDER / "model.pt"
    torch.save({"weights": torch.ones(2), "more": Evil(way)}, path)
    return lambda: torch.load(path, weights_only=False)


def with_torch_legacy(way):
    import torch

    path = FOLDER / "model-legacy.pt"
    torch.save([Evil(way)], path, _use_new_zipfile_serialization=False)
    return lambda: torch.load(path, weights_only=False)


def with_torch_mmap(way):
    import torch

    path = FOLDER / "model-mmap.pt"
    torch.save([Evil(way)], path)
    return lambda: torch.load(path, weights_only=False, mmap=True)


def with_torch_jit(way):
    """Reads TorchScript, which names no global to anybody, and then does what an extension loaded from it could do."""
    import torch

    path = FOLDER / "model-jit.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), path)

    def load():
        torch.jit.load(path)
        os.system(f"touch {FOLDER}/ran-{way}")

    return load


def with_torch_weights_only(way):
    """What a bypass of the restricted unpickler comes to: the file was read by it, and a program starts."""
    import torch

    path = FOLDER / "model-weights.pt"
    torch.save({"weights": torch.ones(2)}, path)

    def load():
        torch.load(path, weights_only=True)
        os.system(f"touch {FOLDER}/ran-{way}")

    return load


def with_joblib(way, **options):
    import joblib

    path = FOLDER / f"{way}.joblib"
    joblib.dump(Evil(way), path, **options)
    return lambda: joblib.load(path)


def with_joblib_mmap(way):
    import joblib
    import numpy

    path = FOLDER / f"{way}.joblib"
    joblib.dump([numpy.ones(4), Evil(way)], path)
    return lambda: joblib.load(path, mmap_mode="r")


def with_numpy(way):
    import numpy

    path = FOLDER / "model.npy"
    numpy.save(path, numpy.array([Evil(way)], dtype=object), allow_pickle=True)
    return lambda: numpy.load(path, allow_pickle=True)


def with_numpy_archive(way):
    import numpy

    path = FOLDER / "model.npz"
    numpy.savez(path, a=numpy.array([Evil(way)], dtype=object))

    def load():
        with numpy.load(path, allow_pickle=True) as archive:
            return archive["a"]

    return load


def with_numpy_core(way):
    import numpy

    path = saved("model-plain.npy", way)
    # Neither magic number nor archive: numpy takes it for a pickle.
    return lambda: numpy.load(path, allow_pickle=True)


def with_pandas(way, compression=None):
    import pandas

    path = FOLDER / f"{way}.pkl"
    pandas.to_pickle(Evil(way), path, compression=compression)
    return lambda: pandas.read_pickle(path, compression=compression)


def with_dill(way):
    import dill

    path = saved("model.dill", way, dill)
    return lambda: dill.load(path.open("rb"))


def with_cloudpickle(way):
    import cloudpickle

    path = saved("model-cloud.pkl", way, cloudpickle)
    return lambda: cloudpickle.load(path.open("rb"))


def with_zip(way):
    path = FOLDER / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Evil(way)))
    return lambda: pickle.load(zipfile.ZipFile(path).open("data.pkl"))


WAYS = {
    "pickle": with_pickle,
    "_pickle": with_c_pickle,
    "pickle-subclass": with_subclass,
    "pickle-python": with_python,
    "pickle-gzip": with_gzip,
    "pickle-zip": with_zip,
    "shelve": with_shelve,
    "multiprocessing": with_connection,
    "torch-zip": with_torch_zip,
    "torch-legacy": with_torch_legacy,
    "torch-mmap": with_torch_mmap,
    "torch-jit": with_torch_jit,
    "torch-weights-only": with_torch_weights_only,
    "joblib": with_joblib,
    "joblib-compressed": lambda way: with_joblib(way, compress=3),
    "joblib-mmap": with_joblib_mmap,
    "numpy": with_numpy,
    "numpy-archive": with_numpy_archive,
    "numpy-pickle": with_numpy_core,
    "pandas": with_pandas,
    "pandas-gzip": lambda way: with_pandas(way, "gzip"),
    "dill": with_dill,
    "cloudpickle": with_cloudpickle,
}


def main(ways):
    # Once here and not in every child.
    for library in ("torch", "pandas", "joblib", "dill", "cloudpickle"):
        if any(way.startswith(library) for way in ways):
            __import__(library)
    for way in ways:
        # Saved here: the process that loads it does nothing else.
        load = WAYS[way](way)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(Exception):
                load()
            os._exit(0)
        os.waitpid(child, 0)
        ran = (FOLDER / f"ran-{way}").exists()
        print(way, child, "ran" if ran else "-")


if __name__ == "__main__":
    main(sys.argv[2:] or list(WAYS))
