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
        ("pickle loads", "indirect"),
        ("_pickle loads", "indirect"),
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
fn functions_saved_by_value_carry_code_and_are_not_dangerous_alone() {
    for global in [
        "dill._dill _create_function",
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
