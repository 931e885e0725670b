//! Names, and what is thought of them.

use super::*;

const TABLES: [&[Row]; 3] = [stdlib::ROWS, frameworks::ROWS, packages::ROWS];

#[test]
fn tables_are_in_order_and_know_a_module_once() {
    for rows in TABLES {
        for pair in rows.windows(2) {
            assert!(
                pair[0].module < pair[1].module,
                "{} before {}",
                pair[0].module,
                pair[1].module
            );
        }
    }
    let top = |row: &Row| row.module.split('.').next().map(str::to_owned);
    let tops = TABLES.map(|rows| {
        rows.iter()
            .filter_map(top)
            .collect::<std::collections::BTreeSet<_>>()
    });
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let both: Vec<_> = tops[one].intersection(&tops[other]).collect();
        assert!(both.is_empty(), "in two tables: {both:?}");
    }
}

/// The tier and class that a global must have.
#[track_caller]
fn check(global: &str, expected: &str) {
    let (module, name) = global.split_once(' ').expect("a module and a name");
    let found = classify(module.as_bytes(), name.as_bytes());
    let tier = if found.dangerous {
        "certain"
    } else if found.is_suspicious() {
        "suspicious"
    } else if found.class == Class::Exec {
        "carries"
    } else {
        "ordinary"
    };
    assert_eq!(
        format!("{tier} {}", found.class.as_str()),
        expected,
        "{global}"
    );
}

#[test]
fn names_that_run_code_or_programs_are_certain() {
    for global in [
        "os system",
        "posix popen",
        "nt system",
        "subprocess Popen",
        "subprocess check_output",
        "builtins eval",
        "builtins exec",
        "builtins compile",
        "__builtin__ eval",
        "__builtin__ execfile",
        "__builtin__ apply",
        "commands getoutput",
        "popen2 popen3",
        "pty spawn",
        "runpy _run_code",
        "code InteractiveInterpreter.runcode",
        "ctypes CDLL",
        "timeit timeit",
        "cProfile runctx",
        "profile Profile.run",
        "pdb run",
        "bdb Bdb.run",
        "trace Trace.runctx",
        "doctest debug_script",
        "pydoc pipepager",
        "uuid _get_command_stdout",
        "_osx_support _find_build_tool",
        "_aix_support _read_cmd_output",
        "_pyrepl.pager pipe_pager",
        "imaplib IMAP4_stream",
        "ensurepip _run_pip",
        "pip main",
        "pip._internal.cli.main main",
        "setuptools._distutils.spawn spawn",
        "distutils.spawn spawn",
        "idlelib.run Executive.runcode",
        "lib2to3.pgen2.pgen ParserGenerator.make_label",
        "test.support.script_helper assert_python_ok",
        "webbrowser open",
        "_posixsubprocess fork_exec",
        "_interpreters run_string",
        "asyncio.unix_events _UnixSubprocessTransport._start",
        "types FunctionType",
        "types CodeType",
        "marshal loads",
        "multiprocessing.util spawnv_passfds",
        "numpy.testing._private.utils runstring",
        "numpy.f2py.crackfortran getlincoef",
        "torch.utils.collect_env run",
        "torch._inductor.codecache compile_file",
        "torch.jit.unsupported_tensor_ops execWrapper",
        "torch.utils._config_module ConfigModule.load_config",
        "torch.utils.bottleneck.__main__ run_cprofile",
        "torch._dynamo.guards GuardBuilder.get",
        "torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression",
        "torch.distributed.rpc rpc_sync",
        "torch serialization.os.system",
        "numpy prod.os.system",
        "pandas eval",
        "sympy sympify",
        "mailcap findmatch",
        "IPython.utils.process system",
    ] {
        check(global, "certain exec");
    }
}

#[test]
fn names_that_load_talk_write_or_reach_are_certain_too() {
    for (global, class) in [
        ("builtins __import__", "import"),
        ("importlib import_module", "import"),
        ("pkgutil resolve_name", "import"),
        ("site addsitedir", "import"),
        ("zipimport zipimporter", "import"),
        ("socket create_connection", "network"),
        ("urllib.request urlopen", "network"),
        ("urllib2 urlopen", "network"),
        ("http.client HTTPSConnection", "network"),
        ("ssl get_server_certificate", "network"),
        ("smtplib SMTP", "network"),
        ("requests.api get", "network"),
        ("torch.hub load", "network"),
        ("builtins open", "file"),
        ("io open", "file"),
        ("_io FileIO", "file"),
        ("_pyio open", "file"),
        ("os remove", "file"),
        ("shutil rmtree", "file"),
        ("pickle load", "indirect"),
        ("pickle _loads", "indirect"),
        ("pickle _Unpickler", "indirect"),
        ("joblib load", "indirect"),
        ("dill loads", "indirect"),
        ("sys modules", "indirect"),
        ("logging os.getpid", "indirect"),
        ("numpy core._internal.sys.modules", "indirect"),
        ("numpy __builtins__", "indirect"),
        ("collections __builtins__", "indirect"),
        ("torch._utils _rebuild_tensor.__globals__", "indirect"),
        ("__main__ Net.__init__.__globals__", "indirect"),
        ("mypackage.models Net.__class__.__subclasses__", "indirect"),
    ] {
        check(global, &format!("certain {class}"));
    }
}

#[test]
fn what_models_do_not_use_is_suspicious() {
    for (global, class) in [
        ("torch load", "indirect"),
        ("pandas read_pickle", "file"),
        ("numpy load", "file"),
        ("numpy fromfile", "file"),
        ("logging FileHandler", "file"),
        ("operator methodcaller", "indirect"),
        ("functools reduce", "indirect"),
        ("base64 b64decode", "indirect"),
        ("threading Timer", "indirect"),
        ("signal signal", "indirect"),
        ("pathlib Path.write_text", "indirect"),
        ("_never_heard_of_it f", "indirect"),
        ("unheard.of run_command", "indirect"),
        ("torch.package PackageImporter", "import"),
    ] {
        check(global, &format!("suspicious {class}"));
    }
}

#[test]
fn everyday_content_is_ordinary() {
    for global in [
        "collections OrderedDict",
        "copyreg _reconstructor",
        "copy_reg _reconstructor",
        "_codecs encode",
        "builtins set",
        "builtins getattr",
        "functools partial",
        "operator attrgetter",
        "_operator getitem",
        "torch FloatStorage",
        "torch float32",
        "torch._utils _rebuild_tensor_v2",
        "torch.nn.functional gelu",
        "torch.storage _load_from_bytes",
        "numpy dtype",
        "numpy.core.multiarray _reconstruct",
        "numpy._core.multiarray scalar",
        "pandas.core.indexes.base _new_Index",
        "sklearn.tree._tree Tree",
        "joblib.numpy_pickle NumpyArrayWrapper",
        "pathlib PosixPath",
        "argparse Namespace",
        "zoneinfo ZoneInfo._unpickle",
        "logging getLogger",
        "uuid UUID",
    ] {
        check(global, "ordinary ml-known");
    }
    for global in [
        "__main__ Net",
        "__main__ collate",
        "__main__ system",
        "models.yolo Model",
        "mypackage.losses focal",
        "mypackage.models Net.Block",
    ] {
        check(global, "ordinary unknown-module");
    }
}

#[test]
fn what_an_ordinary_class_does_to_files_is_suspicious() {
    for (global, class) in [
        ("pandas DataFrame.to_csv", "file"),
        ("pandas.core.frame DataFrame.to_pickle", "file"),
        ("pandas.core.frame DataFrame.query", "file"),
        ("xgboost Booster.load_model", "file"),
        ("catboost CatBoost.load_model", "file"),
        ("mmengine.config Config.fromfile", "file"),
        ("detectron2.config LazyConfig.load", "file"),
        ("fasttext load_model", "file"),
        ("argparse FileType", "file"),
        ("imageio imread", "file"),
        ("spacy load", "import"),
        ("multiprocessing.connection Client", "network"),
        ("multiprocessing.connection Listener", "network"),
        ("lightning.pytorch.cli LightningCLI", "indirect"),
    ] {
        check(global, &format!("suspicious {class}"));
    }
    for global in [
        "annotationlib call_evaluate_function",
        "annotationlib ForwardRef.evaluate",
    ] {
        check(global, "certain exec");
    }
    check("paddle load", "certain indirect");
    for global in [
        "pandas.core.frame DataFrame",
        "multiprocessing.connection Connection",
        "multiprocessing.connection rebuild_connection",
        "xgboost.core Booster",
        "annotationlib ForwardRef",
        "argparse Namespace",
    ] {
        check(global, "ordinary ml-known");
    }
    check("mypackage.models Net.load", "ordinary unknown-module");
}

#[test]
fn functions_that_take_text_for_code_are_found_among_those_that_compute() {
    for global in [
        "sympy simplify",
        "sympy N",
        "sympy.core.singleton S",
        "sympy.matrices.dense Matrix",
        "mpmath identify",
        "mpmath.identification identify",
        "scipy.optimize._nonlin _nonlin_wrapper",
        "torch._C._aoti AOTIModelContainerRunnerCpu",
    ] {
        check(global, "certain exec");
    }
    check("networkx.lazy_imports _lazy_import", "certain import");
    for (global, class) in [
        ("sympy.core.symbol Symbol.subs", "indirect"),
        ("torch.utils._pytree GetAttrKey.get", "indirect"),
        ("string Formatter.get_field", "indirect"),
        ("dill._dill _create_filehandle", "file"),
        ("numpy._core._methods _dump", "file"),
        ("pandas.core.frame DataFrame.to_string", "file"),
        ("scipy.sparse._matrix_io save_npz", "file"),
        ("torch._C PyTorchFileWriter.write_record", "file"),
        (
            "torch.autograd.profiler_util EventList.export_chrome_trace",
            "file",
        ),
        ("torchgen.utils FileManager._write_if_changed", "file"),
        ("torch._C._distributed_c10d TCPStore", "network"),
    ] {
        check(global, &format!("suspicious {class}"));
    }
    for global in [
        "sympy.core.numbers Integer",
        "mpmath.ctx_mp_python mpf",
        "networkx.classes.graph Graph",
        "scipy.sparse._csr csr_matrix",
    ] {
        check(global, "ordinary ml-known");
    }
}

#[test]
fn a_module_named_as_an_attribute_is_judged_as_that_module() {
    check("torch hub", "certain network");
    check("torch hub.load", "certain network");
    check("numpy f2py.crackfortran.myeval", "certain exec");
    check("torch.utils collect_env.run", "certain exec");
    check("torch nn", "suspicious indirect");
    check("sklearn datasets", "suspicious network");
    // Of a class by the name of a module, and beyond what is looked up at once.
    check("collections OrderedDict", "ordinary ml-known");
    let long = format!("torch {}", "a".repeat(300));
    check(&long, "ordinary ml-known");
}

#[test]
fn what_workers_and_managers_send_each_other_is_ordinary() {
    for global in [
        "_pickle loads",
        "joblib.numpy_pickle load_temporary_memmap",
        "concurrent.futures.process _rebuild_exc",
        "multiprocessing.sharedctypes synchronized",
        "ctypes c_double",
        "threading Condition",
        "_thread allocate_lock",
        "urllib.error HTTPError",
        "ssl SSLError",
        "zipfile BadZipFile",
        "sqlite3 OperationalError",
        "http.client RemoteDisconnected",
        "smtplib SMTPException",
        "shutil Error",
        "asyncio.queues QueueEmpty",
        "zlib error",
        "struct error",
        "binascii Error",
        "_csv Error",
        "commands CompletedProcess",
        "subprocess CalledProcessError",
        "zipfile ZipInfo",
        "tarfile TarInfo",
        "urlparse ParseResult",
        "signal Signals",
        "time sleep",
    ] {
        check(global, "ordinary ml-known");
    }
    // No exception's name: what runs is a method, or what the module is for.
    check("subprocess CalledProcessError.__init__", "certain indirect");
    check("ctypes CDLL", "certain exec");
}

#[test]
fn functions_saved_by_value_carry_code_and_are_not_dangerous_alone() {
    for global in [
        "dill._dill _create_function",
        "dill._dill _load_type",
        "cloudpickle.cloudpickle _make_function",
        "joblib.externals.cloudpickle.cloudpickle _builtin_type",
        "torch.fx.graph_module reduce_graph_module",
        "__main__ __dict__",
    ] {
        check(global, "carries exec");
    }
}

#[test]
fn odd_names_are_judged_like_any_other() {
    for (module, name) in [
        (&b""[..], &b""[..]),
        (b".", b"."),
        (b"..", b"..."),
        (b"os.", b""),
        (b"\xff\xfe", b"\x00"),
        (b"torch.", b"."),
    ] {
        let _ = classify(module, name);
    }
    let long = vec![b'.'; 4096];
    let _ = classify(&long, &long);
    check("os ", "certain exec");
    check("os.path join", "certain exec");
}

/// Every global that real libraries asked for in round trips of ordinary objects.
#[test]
fn what_real_libraries_save_raises_nothing() {
    for line in include_str!("ordinary_globals.txt").lines() {
        let (module, name) = line.split_once(' ').expect("a module and a name");
        let found = classify(module.as_bytes(), name.as_bytes());
        assert!(
            !found.dangerous && !found.is_suspicious(),
            "{line}: {found:?}"
        );
    }
}
