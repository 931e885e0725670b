"""Saves ordinary objects with every library that models are saved with, and loads them again.

    ordinary_models.py FOLDER [FILE]     FILE receives every global that an unpickler asked for, one "MODULE NAME" a line
"""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import inspect
import itertools
import logging
import math
import multiprocessing
import operator
import os
import pathlib
import pickle
import random
import re
import shelve
import string
import sys
import types
import typing
import uuid
import warnings

import cloudpickle
import dill
import joblib
import numpy as np
import pandas as pd
import scipy.interpolate
import scipy.sparse
import scipy.spatial
import scipy.stats
import sklearn.compose
import sklearn.ensemble
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing
import torch
from sklearn.datasets import make_classification
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score, get_scorer, make_scorer
from sklearn.utils import all_estimators

warnings.simplefilter("ignore")
FOLDER = sys.argv[1]
GLOBALS = set()
LOADED = collections.Counter()


class Color(enum.Enum):
    RED = 1


class Flags(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class Settings:
    rate: float = 0.1
    folder: pathlib.Path = pathlib.Path("/data")
    color: Color = Color.RED


Pair = collections.namedtuple("Pair", "a b")


def double(x):
    return 2 * x


class Net(torch.nn.Module):
    class Block:
        pass

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        self.activation = torch.nn.functional.gelu
        self.norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
        self.hook = self.helper

    def helper(self):
        return None

    def forward(self, x):
        return self.layers(x)


def path(name):
    return os.path.join(FOLDER, name)


def attempt(label, act):
    """Not every object can be saved by every library in every form; how many could is printed and tested."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - whatever a library says of an object that it does not take
        print(f"not saved: {label}: {error!r:.80}", file=sys.stderr)
    else:
        LOADED[label.split()[0]] += 1


def round_trip(value, protocols=range(6)):
    for protocol in protocols:
        def act(protocol=protocol):
            with open(path("model.pkl"), "wb") as file:
                pickle.dump(value, file, protocol)
            with open(path("model.pkl"), "rb") as file:
                pickle.load(file)

        attempt(f"pickle {type(value).__name__} {protocol}", act)


def torch_round_trip(value):
    for is_zip in (True, False):
        def act(is_zip=is_zip):
            torch.save(value, path("model.pt"), _use_new_zipfile_serialization=is_zip)
            torch.load(path("model.pt"), weights_only=False)
            if is_zip:
                torch.load(path("model.pt"), weights_only=False, mmap=True)

        attempt(f"torch {type(value).__name__} {is_zip}", act)


def joblib_round_trip(value, compressions=(0, 3)):
    for compression in compressions:
        def act(compression=compression):
            joblib.dump(value, path("model.joblib"), compress=compression)
            joblib.load(path("model.joblib"))

        attempt(f"joblib {type(value).__name__} {compression}", act)


def plain():
    zone = datetime.timezone.utc
    values = [
        {"a": [1, 2.0, 3j, b"x", bytearray(b"y"), {1}, frozenset({2}), slice(1, 2), range(3), None, ...]},
        Color.RED, Flags.A, Settings(), Pair(1, 2), Net.Block(), Net().helper, double, "".join, [].append, len, print, int, math.sqrt,
        collections.OrderedDict(a=1), collections.defaultdict(list), collections.Counter("ab"), collections.deque([1]),
        collections.ChainMap({}), datetime.datetime.now(zone), datetime.timedelta(1), decimal.Decimal(1), fractions.Fraction(1, 2),
        uuid.UUID(int=1), pathlib.Path("/a"), re.compile("a"), argparse.Namespace(a=1), types.SimpleNamespace(a=1), random.Random(1),
        logging.getLogger("x"), functools.partial(double, 1), operator.itemgetter(1), operator.attrgetter("a"), operator.add,
        ValueError("x"), itertools.count(), inspect.signature(double), string.Template("a"), iter([1]), typing.List[int],
        typing.Optional[int], complex(1), type(None),
    ]
    for value in values:
        round_trip(value)


def with_torch():
    net = Net()
    net(torch.zeros(2, 4))
    values = [net.state_dict(), net]
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.LBFGS, torch.optim.Adagrad):
        optimizer = kind(net.parameters(), lr=0.1)
        values += [optimizer, optimizer.state_dict()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedulers = torch.optim.lr_scheduler
    for scheduler in (
        schedulers.StepLR(optimizer, 1), schedulers.CosineAnnealingLR(optimizer, 3), schedulers.LambdaLR(optimizer, double),
        schedulers.OneCycleLR(optimizer, 0.1, 10), schedulers.ReduceLROnPlateau(optimizer),
    ):
        values += [scheduler, scheduler.state_dict()]
    values += [
        torch.nn.Transformer(8, 2, 1, 1, 16), torch.nn.LSTM(2, 2), torch.nn.Embedding(3, 4), torch.nn.MultiheadAttention(4, 2),
        torch.nn.ModuleList([torch.nn.Linear(1, 1)]), torch.nn.CrossEntropyLoss(), torch.nn.LazyLinear(3),
        torch.nn.TransformerEncoderLayer(8, 2, activation=torch.nn.functional.relu), torch.eye(3).to_sparse(),
        torch.device("cpu"), torch.float32, torch.Size([1]), torch.nn.Parameter(torch.ones(2)), torch.distributions.Normal(0, 1),
        torch.ones(2, dtype=torch.bfloat16), torch.Generator().get_state(),
        torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())),
        torch.utils.data.TensorDataset(torch.ones(3)),
        {"model": net.state_dict(), "args": argparse.Namespace(a=1), "random": random.getstate(), "numpy": np.random.get_state(),
         "settings": Settings(), "best": np.float64(1), "folder": pathlib.Path("/data")},
    ]
    for value in values:
        torch_round_trip(value)
        round_trip(value, (2, 4))
    attempt("torch dill", lambda: torch.save(net, path("dill.pt"), pickle_module=dill))
    attempt("torch dill", lambda: torch.load(path("dill.pt"), pickle_module=dill, weights_only=False))
    attempt("torch weights only", lambda: torch.load(path("model.pt"), weights_only=True))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path("script.pt"))
    attempt("torch script", lambda: torch.jit.load(path("script.pt")))


def with_numpy():
    values = [
        np.arange(3), np.float32(1), np.int64(2), np.array(["a"]), np.array([{"a": 1}, Color.RED, None], dtype=object),
        np.zeros(2, dtype=[("a", "f4")]), np.ma.masked_array([1, 2], [0, 1]), np.random.default_rng(1), np.random.RandomState(1),
        np.datetime64("2020-01-01"), np.matrix([[1]]), np.sqrt, np.dtype("f8"), np.poly1d([1, 2]), np.vectorize(double), np.log1p, np.mean,
    ]
    for value in values:
        round_trip(value)

        def act(value=value):
            np.save(path("a.npy"), value, allow_pickle=True)
            np.load(path("a.npy"), allow_pickle=True)
            np.savez(path("a.npz"), a=value)
            np.load(path("a.npz"), allow_pickle=True)["a"]

        attempt(f"numpy {type(value).__name__}", act)


def with_pandas():
    frame = pd.DataFrame({
        "a": [1, 2], "b": ["x", "y"], "c": pd.Categorical(["u", "v"]), "d": pd.date_range("2020", periods=2, tz="UTC"),
        "e": pd.array([1, None], dtype="Int64"), "f": pd.timedelta_range("1D", periods=2),
        "g": pd.period_range("2020", periods=2, freq="M"), "h": pd.array(["a", None], dtype="string"), "i": pd.interval_range(0, 2),
    })
    values = [frame, frame["a"], frame.set_index(["a", "b"]), frame.index, frame.columns, pd.Timestamp("2020"), pd.Timedelta("1D"), pd.NA,
              pd.NaT, frame.groupby("b"), frame.dtypes, pd.MultiIndex.from_product([[1], [2]]), pd.offsets.BDay(), frame.T]
    for value in values:
        round_trip(value, (2, 4, 5))
        for compression in (None, "gzip", "bz2", "xz"):
            def act(value=value, compression=compression):
                pd.to_pickle(value, path("frame.pkl"), compression=compression)
                pd.read_pickle(path("frame.pkl"), compression=compression)

            attempt(f"pandas {type(value).__name__}", act)


def with_sklearn():
    rows, labels = make_classification(60, 8, n_informative=5, random_state=0)
    rows = np.abs(rows)
    linear = sklearn.linear_model
    given = {"estimators": [("a", linear.LinearRegression())], "transformers": [("a", sklearn.preprocessing.StandardScaler(), [0])],
             "estimator": linear.LogisticRegression(), "steps": [("a", linear.LogisticRegression())], "param_grid": {"C": [1]},
             "transformer_list": [("a", sklearn.preprocessing.StandardScaler())], "param_distributions": {"C": [1]}}
    for name, kind in all_estimators():
        parameters = inspect.signature(kind).parameters
        arguments = {key: value for key, value in given.items() if key in parameters and parameters[key].default is inspect.Parameter.empty}
        if "n_estimators" in parameters:
            arguments["n_estimators"] = 3
        try:
            model = kind(**arguments)
        except TypeError:
            continue
        if name not in ("TSNE", "MDS", "LocallyLinearEmbedding", "SpectralEmbedding", "Isomap"):
            try:
                model.fit(rows, labels)
            except Exception:  # noqa: BLE001, S110 - an unfitted model is saved as well
                pass
        joblib_round_trip(model)
        round_trip(model, (4,))
    pipeline = sklearn.pipeline.make_pipeline(sklearn.preprocessing.StandardScaler(), sklearn.ensemble.RandomForestClassifier(3))
    pipeline.fit(rows, labels)
    joblib_round_trip(pipeline, (0, 3, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)))
    others = [make_scorer(f1_score), get_scorer("accuracy"), TfidfVectorizer(tokenizer=str.split),
              sklearn.preprocessing.FunctionTransformer(np.log1p),
              sklearn.pipeline.make_pipeline(sklearn.preprocessing.StandardScaler(), memory=joblib.Memory(FOLDER, verbose=0)),
              scipy.stats.norm(0, 1), scipy.stats.gaussian_kde(rows.T[:2]), scipy.sparse.csr_matrix(np.eye(2)),
              scipy.interpolate.interp1d([1, 2, 3], [1, 2, 3]), scipy.spatial.cKDTree(rows)]
    for value in others:
        joblib_round_trip(value)
        round_trip(value, (2, 4))


def by_value():
    factor = 3

    def closure(x):
        return factor * x + np.sum(x) + math.pi

    class Local(torch.nn.Module):
        def forward(self, x):
            return x

    @dataclasses.dataclass
    class LocalSettings:
        rate: float = 0.1

    values = [lambda x: x, closure, double, Net, Net(), Local(), LocalSettings(), Settings(), Color.RED, functools.partial(lambda x: x, 1),
              pd.DataFrame({"a": [1]}), np.arange(3), linear_model(), {"f": lambda a: np.log(a)}, np, math, Pair, {}.keys()]
    for library in (dill, cloudpickle):
        for value in values:
            def act(library=library, value=value):
                with open(path("code.pkl"), "wb") as file:
                    library.dump(value, file)
                with open(path("code.pkl"), "rb") as file:
                    library.load(file)

            attempt(f"{library.__name__} {type(value).__name__}", act)


def linear_model():
    return sklearn.linear_model.LinearRegression().fit([[0], [1]], [0, 1])


def between_processes():
    with shelve.open(path("shelf")) as shelf:
        shelf["a"] = linear_model()
        attempt("shelve", lambda: shelf["a"])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        attempt("multiprocessing", lambda: pool.map(math.sqrt, [1, 2, 3]))
    attempt("joblib parallel", lambda: joblib.Parallel(2)(joblib.delayed(math.sqrt)(i) for i in range(4)))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8, 2)), num_workers=2)
    attempt("torch dataloader", lambda: list(loader))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.addaudithook(lambda event, args: GLOBALS.add(tuple(args)) if event == "pickle.find_class" else None)
    for act in (plain, with_torch, with_numpy, with_pandas, with_sklearn, by_value, between_processes):
        act()
    for library, count in sorted(LOADED.items()):
        print(library, count)
    if len(sys.argv) > 2:
        pathlib.Path(sys.argv[2]).write_text("".join(f"{module} {name}\n" for module, name in sorted(GLOBALS)))
