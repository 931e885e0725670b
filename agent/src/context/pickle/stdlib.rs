//! Python's own library, 2.7 to 3.14. Its data types are everyday content of models; the rest of it is what an
//! attacker builds from, because every Python has it.

use super::{
    Class::{Exec, File, Import, Indirect, Network},
    table::{
        ODD, Row,
        Verdict::{self, CarriesCode, Certain, Ordinary, Suspicious},
    },
};

/// Builtins under both names.
const BUILTINS: &[(Verdict, &str)] = &[
    (
        Certain(Exec),
        "eval exec execfile compile apply breakpoint input help exit quit license credits",
    ),
    (
        Certain(Import),
        "__import__ reload __loader__ __build_class__",
    ),
    (Certain(File), "open file"),
    (
        Certain(Indirect),
        "__builtins__ globals locals vars delattr",
    ),
    (Suspicious(Indirect), "raw_input reduce dir callable"),
    // dill saves a dataclass of the user's script by value, and with it the globals that its methods were made with.
    (CarriesCode, "__dict__"),
    // Bound methods, members of enumerations and nested classes are saved as a getattr.
    (
        Ordinary,
        "getattr setattr map filter hasattr set frozenset slice complex bytearray bytes dict list tuple str int float bool object type \
            range xrange long unicode basestring buffer print len max min sum abs sorted zip enumerate reversed iter next \
            isinstance issubclass round pow divmod repr ascii hash id any all ord chr unichr bin hex oct format memoryview \
            property staticmethod classmethod super intern coerce cmp dict_keys dict_values dict_items object.__new__",
    ),
];

/// Numbers as processes share them.
const CTYPES: &[(Verdict, &str)] = &[(
    Ordinary,
    "c_bool c_char c_wchar c_byte c_ubyte c_short c_ushort c_int c_uint c_long c_ulong c_longlong c_ulonglong c_size_t c_ssize_t \
        c_float c_double c_longdouble c_int8 c_uint8 c_int16 c_uint16 c_int32 c_uint32 c_int64 c_uint64 _unpickle",
)];

/// What threads wait for each other by, as managers of shared objects make it.
const LOCKS: &[(Verdict, &str)] = &[(
    Ordinary,
    "Event Lock RLock Semaphore BoundedSemaphore Condition Barrier local _local allocate_lock lock LockType",
)];

/// By module, in order.
#[rustfmt::skip] // A table: a row a module.
pub(super) const ROWS: &[Row] = &[
    Row::bad("BaseHTTPServer", Network),
    Row::bad("Bastion", Exec),
    Row::bad("CGIHTTPServer", Network),
    Row::types("ConfigParser"),
    Row::types("Cookie"),
    Row::odd("HTMLParser", Indirect),
    Row::types("Queue"),
    Row::bad("SimpleHTTPServer", Network),
    Row::bad("SocketServer", Network),
    Row::types("StringIO").but(&[(Ordinary, "StringIO")]),
    Row::odd("Tkinter", Indirect),
    Row::types("UserDict"),
    Row::types("UserList"),
    Row::types("UserString"),
    Row::new("__builtin__", ODD, Ordinary).but(BUILTINS),
    Row::bad("__builtins__", Indirect),
    Row::plain("__future__"),
    Row::types("_abc"),
    Row::bad("_aix_support", Exec),
    Row::bad("_android_support", Exec),
    Row::bad("_apple_support", Exec),
    Row::types("_ast"),
    Row::odd("_asyncio", Indirect),
    Row::plain("_bisect"),
    Row::bad("_bootsubprocess", Exec),
    Row::odd("_bz2", File),
    Row::types("_calendar"),
    Row::types("_codecs").but(&[
        (Ordinary, "encode"),
        (Certain(File), "open"),
        (Suspicious(File), "StreamReaderWriter EncodedFile"),
    ]),
    Row::types("_collections").but(&[
        (Ordinary, "defaultdict deque namedtuple _tuplegetter _OrderedDictKeysIterator"),
        (Certain(Indirect), "_itemgetter _sys _eq"),
    ]),
    Row::types("_collections_abc"),
    Row::odd("_colorize", Indirect),
    Row::odd("_compression", Indirect),
    Row::odd("_contextvars", Indirect),
    Row::odd("_crypt", Indirect),
    Row::odd("_csv", Indirect),
    Row::bad("_ctypes", Exec).but(CTYPES),
    Row::bad("_ctypes_test", Exec),
    Row::odd("_curses", Indirect),
    Row::odd("_curses_panel", Indirect),
    Row::types("_datetime").but(&[(Ordinary, "datetime date time timedelta timezone tzinfo")]),
    Row::bad("_dbm", File),
    Row::types("_decimal"),
    Row::odd("_dummy_thread", Indirect),
    Row::odd("_elementtree", Indirect),
    Row::bad("_frozen_importlib", Import).but(&[(CarriesCode, "ModuleSpec BuiltinImporter")]),
    Row::bad("_frozen_importlib_external", Import).but(&[(CarriesCode, "SourceFileLoader ExtensionFileLoader NamespaceLoader")]),
    Row::types("_functools").but(&[
        (Ordinary, "partial partialmethod lru_cache cache _lru_cache_wrapper cmp_to_key wraps update_wrapper cached_property \
            singledispatch total_ordering"),
    ]),
    Row::bad("_gdbm", File),
    Row::types("_hashlib").but(&[(Ordinary, "openssl_md5 openssl_sha1 openssl_sha256 openssl_sha512")]),
    Row::plain("_heapq"),
    Row::bad("_imp", Import),
    Row::bad("_interpchannels", Exec),
    Row::odd("_interpqueues", Indirect),
    Row::bad("_interpreters", Exec),
    Row::types("_io").but(&[
        (Certain(File), "open FileIO open_code OpenWrapper"),
        (Suspicious(File), "BufferedReader BufferedWriter BufferedRandom BufferedRWPair TextIOWrapper"),
    ]),
    Row::bad("_ios_support", Exec),
    Row::odd("_json", Indirect),
    Row::odd("_locale", File),
    Row::bad("_lsprof", Exec),
    Row::odd("_lzma", File),
    Row::odd("_markupbase", Indirect),
    Row::types("_md5"),
    Row::odd("_multiprocessing", Indirect),
    Row::odd("_opcode", Indirect),
    Row::plain("_operator").but(&[(Suspicious(Indirect), "methodcaller call isCallable")]),
    Row::bad("_osx_support", Exec),
    Row::odd("_overlapped", Indirect),
    Row::bad("_pickle", Indirect).but(&[
        (Ordinary, "loads intern float_info int_info getsizeof PickleBuffer PickleError PicklingError UnpicklingError"),
    ]),
    Row::odd("_posixshmem", File),
    Row::bad("_posixsubprocess", Exec),
    Row::types("_py_abc"),
    Row::types("_pydatetime").but(&[(Ordinary, "datetime date time timedelta timezone tzinfo")]),
    Row::types("_pydecimal"),
    Row::types("_pyio").but(&[
        (Certain(File), "open FileIO open_code OpenWrapper"),
        (Suspicious(File), "BufferedReader BufferedWriter BufferedRandom BufferedRWPair TextIOWrapper"),
    ]),
    Row::bad("_pyrepl", Exec),
    Row::types("_queue"),
    Row::types("_random"),
    Row::odd("_scproxy", Indirect),
    Row::types("_sha1"),
    Row::types("_sha2"),
    Row::types("_sha256"),
    Row::types("_sha3"),
    Row::types("_sha512"),
    Row::odd("_signal", Indirect),
    Row::odd("_sitebuiltins", Indirect),
    Row::bad("_socket", Network).but(&[(Ordinary, "AddressFamily SocketKind SocketType gaierror herror timeout")]),
    Row::bad("_sqlite3", File),
    Row::plain("_sre"),
    Row::bad("_ssl", Network),
    Row::odd("_stat", File),
    Row::plain("_statistics"),
    Row::plain("_string"),
    Row::types("_strptime"),
    Row::types("_struct"),
    Row::odd("_suggestions", Indirect),
    Row::odd("_symtable", Indirect),
    Row::odd("_sysconfig", Indirect),
    Row::odd("_testbuffer", Indirect),
    Row::bad("_testcapi", Exec),
    Row::odd("_testimportmultiple", Indirect),
    Row::bad("_testinternalcapi", Exec),
    Row::bad("_testlimitedcapi", Exec),
    Row::odd("_testmultiphase", Indirect),
    Row::odd("_testsinglephase", Indirect),
    Row::odd("_thread", Indirect).but(LOCKS),
    Row::odd("_tkinter", Indirect),
    Row::odd("_tokenize", Indirect),
    Row::odd("_tracemalloc", Indirect),
    Row::plain("_typing"),
    Row::odd("_uuid", Indirect),
    Row::odd("_warnings", Indirect),
    Row::types("_weakref").but(&[(Ordinary, "ref proxy")]),
    Row::types("_weakrefset"),
    Row::bad("_winapi", Exec),
    Row::odd("_winreg", File),
    Row::odd("_wmi", File),
    Row::odd("_xxinterpchannels", Indirect),
    Row::bad("_xxsubinterpreters", Exec),
    Row::types("_zoneinfo").but(&[(Ordinary, "ZoneInfo._unpickle")]),
    Row::types("abc"),
    Row::odd("aifc", File),
    Row::new("annotationlib", Certain(Exec), Ordinary),
    Row::bad("antigravity", Exec),
    Row::bad("anydbm", File),
    Row::types("argparse").but(&[(Suspicious(File), "FileType")]),
    Row::plain("array"),
    Row::types("ast").but(&[(Suspicious(Indirect), "literal_eval")]),
    Row::bad("asynchat", Network),
    Row::bad("asyncio", Exec).but(&[
        (Ordinary, "CancelledError TimeoutError InvalidStateError QueueEmpty QueueFull exceptions.CancelledError exceptions.TimeoutError"),
    ]),
    Row::types("asyncio.exceptions"),
    Row::bad("asyncio.queues", Exec).but(&[(Ordinary, "QueueEmpty QueueFull QueueShutDown")]),
    Row::bad("asyncore", Network),
    Row::bad("atexit", Exec),
    Row::odd("audiodev", File),
    Row::odd("audioop", Indirect),
    Row::odd("base64", Indirect),
    Row::bad("bdb", Exec),
    Row::odd("binascii", Indirect),
    Row::odd("binhex", Indirect),
    Row::plain("bisect"),
    Row::new("builtins", ODD, Ordinary).but(BUILTINS),
    Row::odd("bz2", File),
    Row::bad("cPickle", Indirect).but(&[
        (Ordinary, "loads intern float_info int_info getsizeof PickleBuffer PickleError PicklingError UnpicklingError"),
    ]),
    Row::bad("cProfile", Exec),
    Row::types("cStringIO"),
    Row::types("calendar"),
    Row::bad("cgi", Network),
    Row::bad("cgitb", Exec),
    Row::odd("chunk", Indirect),
    Row::plain("cmath"),
    Row::odd("cmd", Indirect),
    Row::bad("code", Exec),
    Row::types("codecs").but(&[
        (Ordinary, "encode"),
        (Certain(File), "open"),
        (Suspicious(File), "StreamReaderWriter EncodedFile"),
    ]),
    Row::bad("codeop", Exec),
    Row::types("collections").but(&[
        (Ordinary, "defaultdict deque namedtuple _tuplegetter _OrderedDictKeysIterator"),
        (Certain(Indirect), "_itemgetter _sys _eq"),
    ]),
    Row::types("collections.abc"),
    Row::odd("colorsys", Indirect),
    // Python 2 has its module under this name, and so protocols up to 2 call what is in `subprocess`.
    Row::bad("commands", Exec).but(&[(Ordinary, "CompletedProcess CalledProcessError TimeoutExpired SubprocessError")]),
    Row::bad("compileall", Exec),
    Row::odd("compression", Indirect),
    Row::types("concurrent").but(&[(Ordinary, "_process_worker _process_chunk _rebuild_exc")]),
    Row::types("configparser"),
    Row::types("contextlib").but(&[
        (Ordinary, "nullcontext contextmanager suppress"),
        (Suspicious(Indirect), "ExitStack AsyncExitStack"),
    ]),
    Row::odd("contextvars", Indirect),
    Row::odd("cookielib", Indirect),
    Row::types("copy").but(&[(Ordinary, "copy deepcopy")]),
    Row::types("copy_reg").but(&[
        (Ordinary, "_reconstructor __newobj__ __newobj_ex__ __reduce_ex__ constructor pickle_complex pickle_union _reduce_ex"),
    ]),
    Row::types("copyreg").but(&[
        (Ordinary, "_reconstructor __newobj__ __newobj_ex__ __reduce_ex__ constructor pickle_complex pickle_union _reduce_ex"),
    ]),
    Row::odd("crypt", Indirect),
    Row::types("csv"),
    Row::bad("ctypes", Exec).but(CTYPES),
    Row::odd("curses", Indirect),
    Row::new("dataclasses", CarriesCode, Ordinary).but(&[(CarriesCode, "_FuncBuilder")]),
    Row::types("datetime").but(&[(Ordinary, "datetime date time timedelta timezone tzinfo")]),
    Row::bad("dbm", File),
    Row::types("decimal"),
    Row::types("difflib"),
    Row::odd("dis", Indirect),
    Row::bad("distutils", Exec),
    Row::bad("dl", Exec),
    Row::bad("doctest", Exec),
    Row::bad("dumbdb", File),
    Row::odd("dummy_threading", Indirect),
    Row::types("email"),
    Row::odd("encodings", Indirect),
    Row::bad("ensurepip", Exec),
    Row::types("enum").but(&[(Ordinary, "auto property Enum.__new__ _make_enum")]),
    Row::plain("errno"),
    Row::types("exceptions"),
    Row::odd("faulthandler", Indirect),
    Row::bad("fcntl", File),
    Row::odd("filecmp", File),
    Row::bad("fileinput", File),
    Row::odd("fm", Indirect),
    Row::plain("fnmatch"),
    Row::odd("formatter", Indirect),
    Row::odd("fpformat", Indirect),
    Row::types("fractions"),
    Row::bad("ftplib", Network),
    Row::types("functools").but(&[
        (Ordinary, "partial partialmethod lru_cache cache _lru_cache_wrapper cmp_to_key wraps update_wrapper cached_property \
            singledispatch total_ordering"),
    ]),
    Row::odd("future_builtins", Indirect),
    Row::bad("gc", Indirect).but(&[
        (Ordinary, "intern float_info int_info getsizeof PickleBuffer PickleError PicklingError UnpicklingError"),
    ]),
    Row::plain("genericpath"),
    Row::odd("getopt", Indirect),
    Row::odd("getpass", Indirect),
    Row::odd("gettext", File),
    Row::odd("glob", File),
    Row::types("graphlib"),
    Row::odd("grp", File),
    Row::odd("gzip", File),
    Row::types("hashlib").but(&[(Ordinary, "md5 sha1 sha256 sha512 blake2b blake2s sha3_256")]),
    Row::plain("heapq"),
    Row::types("hmac"),
    Row::bad("hotshot", Exec),
    Row::odd("html", Indirect),
    Row::odd("htmllib", Indirect),
    Row::bad("http", Network).but(&[(Ordinary, "HTTPStatus HTTPMethod"), (Ordinary, "RemoteDisconnected ImproperConnectionState")]),
    Row::bad("http.client", Network).but(&[(Ordinary, "RemoteDisconnected BadStatusLine IncompleteRead")]),
    Row::types("http.cookiejar"),
    Row::types("http.cookies"),
    Row::bad("httplib", Network),
    Row::bad("idlelib", Exec),
    Row::bad("ihooks", Import),
    Row::bad("imaplib", Network).but(&[(Certain(Exec), "IMAP4_stream")]),
    Row::odd("imghdr", Indirect),
    Row::bad("imp", Import),
    Row::bad("importlib", Import),
    Row::odd("imputil", Indirect),
    Row::types("inspect").but(&[(Ordinary, "_empty")]),
    Row::types("io").but(&[
        (Certain(File), "open FileIO open_code OpenWrapper"),
        (Suspicious(File), "BufferedReader BufferedWriter BufferedRandom BufferedRWPair TextIOWrapper"),
    ]),
    Row::types("ipaddress"),
    Row::types("itertools").but(&[
        (Ordinary, "chain count cycle repeat islice product permutations combinations combinations_with_replacement zip_longest \
            pairwise batched compress izip chain.from_iterable tee _tee"),
    ]),
    Row::types("json").but(&[(Ordinary, "loads dumps")]),
    Row::plain("keyword"),
    Row::bad("lib2to3", Exec),
    Row::bad("linecache", File),
    Row::odd("locale", File),
    Row::types("logging").but(&[(Ordinary, "getLogger"), (Suspicious(File), "FileHandler")]),
    Row::bad("logging.config", Exec),
    Row::odd("logging.handlers", Network),
    Row::odd("lzma", File),
    Row::odd("macpath", Indirect),
    Row::odd("mailbox", File),
    Row::bad("mailcap", Exec),
    Row::odd("markupbase", Indirect),
    Row::bad("marshal", Exec),
    Row::plain("math"),
    Row::odd("mhlib", Indirect),
    Row::odd("mimetools", Indirect),
    Row::odd("mimetypes", Indirect),
    Row::odd("mimify", Indirect),
    Row::bad("mmap", File),
    Row::bad("modulefinder", Exec),
    Row::bad("msilib", Exec),
    Row::odd("msvcrt", Indirect),
    Row::odd("multifile", Indirect),
    Row::types("multiprocessing").but(&[
        (Ordinary, "rebuild_* _rebuild_* Rebuild* mapstar starmapstar worker _worker _process_worker RebuildProxy AutoProxy"),
    ]),
    Row::types("multiprocessing.connection").but(&[
        (Ordinary, "rebuild_* Connection"),
        (Suspicious(Network), "Client Listener"),
    ]),
    Row::bad("multiprocessing.forkserver", Exec),
    Row::bad("multiprocessing.popen_fork", Exec),
    Row::bad("multiprocessing.popen_forkserver", Exec).but(&[(Ordinary, "_DupFd")]),
    Row::bad("multiprocessing.popen_spawn_posix", Exec).but(&[(Ordinary, "_DupFd")]),
    Row::bad("multiprocessing.popen_spawn_win32", Exec),
    Row::types("multiprocessing.sharedctypes").but(&[(Ordinary, "synchronized rebuild_ctype")]),
    Row::bad("multiprocessing.spawn", Exec),
    Row::odd("multiprocessing.util", Indirect).but(&[
        (Certain(Exec), "spawnv_passfds _exit_function"),
        (Ordinary, "Finalize ForkAwareThreadLock ForkAwareLocal"),
    ]),
    Row::odd("netrc", File),
    Row::bad("new", Exec),
    Row::odd("nis", File),
    Row::bad("nntplib", Network),
    Row::bad("nt", Exec).but(&[
        (Certain(File), "remove unlink rename renames replace rmdir removedirs mkdir makedirs chmod chown lchown link symlink truncate \
            ftruncate open fdopen open_code write read listdir scandir walk mknod mkfifo utime sendfile copy_file_range \
            readlink chroot"),
        (Certain(Indirect), "environ environb getenv putenv unsetenv sys chdir fchdir kill killpg setuid setgid getpid getcwd getcwdb umask"),
        (Ordinary, "stat_result terminal_size times_result uname_result statvfs_result fspath path.join path.basename path.exists \
            path.splitext sched_param DirEntry"),
    ]),
    Row::plain("ntpath"),
    Row::odd("nturl2path", Indirect),
    Row::types("numbers"),
    Row::odd("opcode", Indirect),
    Row::plain("operator").but(&[(Suspicious(Indirect), "methodcaller call isCallable")]),
    Row::types("optparse"),
    Row::bad("os", Exec).but(&[
        (Certain(File), "remove unlink rename renames replace rmdir removedirs mkdir makedirs chmod chown lchown link symlink truncate \
            ftruncate open fdopen open_code write read listdir scandir walk mknod mkfifo utime sendfile copy_file_range \
            readlink chroot"),
        (Certain(Indirect), "environ environb getenv putenv unsetenv sys chdir fchdir kill killpg setuid setgid getpid getcwd getcwdb umask"),
        (Ordinary, "stat_result terminal_size times_result uname_result statvfs_result fspath path.join path.basename path.exists \
            path.splitext sched_param DirEntry"),
    ]),
    Row::odd("os2emxpath", Indirect),
    Row::odd("ossaudiodev", Indirect),
    Row::types("pathlib"),
    Row::bad("pdb", Exec),
    Row::bad("pickle", Indirect).but(&[
        (Ordinary, "loads intern float_info int_info getsizeof PickleBuffer PickleError PicklingError UnpicklingError"),
    ]),
    Row::odd("pickletools", Indirect),
    Row::bad("pipes", Exec),
    Row::bad("pkgutil", Import),
    Row::bad("platform", Exec).but(&[(Ordinary, "uname_result")]),
    Row::odd("plistlib", File),
    Row::bad("popen2", Exec),
    Row::bad("poplib", Network),
    Row::bad("posix", Exec).but(&[
        (Certain(File), "remove unlink rename renames replace rmdir removedirs mkdir makedirs chmod chown lchown link symlink truncate \
            ftruncate open fdopen open_code write read listdir scandir walk mknod mkfifo utime sendfile copy_file_range \
            readlink chroot"),
        (Certain(Indirect), "environ environb getenv putenv unsetenv sys chdir fchdir kill killpg setuid setgid getpid getcwd getcwdb umask"),
        (Ordinary, "stat_result terminal_size times_result uname_result statvfs_result fspath path.join path.basename path.exists \
            path.splitext sched_param DirEntry"),
    ]),
    Row::odd("posixfile", File),
    Row::plain("posixpath"),
    Row::types("pprint"),
    Row::bad("profile", Exec),
    Row::odd("pstats", Indirect),
    Row::bad("pty", Exec),
    Row::odd("pwd", File),
    Row::bad("py_compile", Exec),
    Row::bad("pyclbr", Exec),
    Row::bad("pydoc", Exec),
    Row::odd("pyexpat", Indirect),
    Row::types("queue"),
    Row::odd("quopri", Indirect),
    Row::types("random").but(&[
        (Ordinary, "random randint uniform choice choices shuffle sample gauss randrange getrandbits normalvariate betavariate \
            expovariate lognormvariate"),
    ]),
    Row::plain("re").but(&[(Suspicious(Indirect), "Scanner")]),
    Row::odd("readline", Indirect),
    Row::types("repr"),
    Row::odd("reprlib", Indirect),
    Row::odd("resource", Indirect),
    Row::bad("rexec", Exec),
    Row::bad("rlcompleter", Exec),
    Row::odd("robotparser", Indirect),
    Row::bad("runpy", Exec),
    Row::odd("sched", Indirect),
    Row::types("secrets"),
    Row::odd("select", Indirect),
    Row::types("selectors"),
    Row::odd("sets", Indirect),
    Row::odd("sgmllib", Indirect),
    Row::bad("shelve", File),
    Row::odd("shlex", Indirect),
    Row::bad("shutil", File),
    Row::types("signal"),
    Row::bad("site", Import),
    Row::bad("sitecustomize", Import),
    Row::bad("smtpd", Exec),
    Row::bad("smtplib", Network),
    Row::odd("sndhdr", Indirect),
    Row::bad("socket", Network).but(&[(Ordinary, "AddressFamily SocketKind SocketType gaierror herror timeout")]),
    Row::bad("socketserver", Network),
    Row::odd("spwd", Indirect),
    Row::bad("sqlite3", File),
    Row::plain("sre"),
    Row::odd("sre_compile", Indirect),
    Row::odd("sre_constants", Indirect),
    Row::odd("sre_parse", Indirect),
    Row::bad("ssl", Network),
    Row::plain("stat"),
    Row::plain("statistics"),
    Row::odd("statvfs", File),
    Row::plain("string").but(&[
        (Certain(Indirect), "os sys"),
        (Suspicious(Indirect), "Formatter.get_field Formatter.get_value Formatter.format Formatter.vformat Formatter._vformat"),
    ]),
    Row::odd("stringold", Indirect),
    Row::odd("stringprep", Indirect),
    Row::plain("strop"),
    Row::types("struct"),
    Row::bad("subprocess", Exec).but(&[(Ordinary, "CompletedProcess CalledProcessError TimeoutExpired SubprocessError")]),
    Row::odd("sunau", File),
    Row::odd("sunaudio", Indirect),
    Row::odd("symtable", Indirect),
    Row::bad("sys", Indirect).but(&[
        (Ordinary, "intern float_info int_info getsizeof PickleBuffer PickleError PicklingError UnpicklingError"),
    ]),
    Row::odd("sysconfig", Indirect),
    Row::odd("syslog", Indirect),
    Row::bad("tabnanny", Exec),
    Row::bad("tarfile", File).but(&[(Ordinary, "TarInfo")]),
    Row::bad("telnetlib", Network),
    Row::bad("tempfile", File),
    Row::odd("termios", Indirect),
    Row::bad("test", Exec),
    Row::types("textwrap"),
    Row::odd("this", Indirect),
    Row::odd("thread", Indirect),
    Row::odd("threading", Indirect).but(LOCKS),
    Row::types("time").but(&[(Ordinary, "struct_time time perf_counter monotonic process_time time_ns sleep")]),
    Row::bad("timeit", Exec),
    Row::odd("tkinter", Indirect),
    Row::odd("toaiff", Indirect),
    Row::odd("token", Indirect),
    Row::types("tokenize"),
    Row::odd("tomllib", Indirect),
    Row::bad("trace", Exec),
    Row::types("traceback"),
    Row::odd("tracemalloc", Indirect),
    Row::odd("tty", Indirect),
    Row::odd("turtle", Indirect),
    Row::bad("turtledemo", Exec),
    Row::types("types").but(&[
        (Certain(Exec), "FunctionType CodeType LambdaType ModuleType"),
        (Suspicious(Indirect), "MethodType BuiltinFunctionType MethodWrapperType FrameType TracebackType WrapperDescriptorType \
            MethodDescriptorType GetSetDescriptorType CellType"),
    ]),
    Row::types("typing").but(&[(Certain(Exec), "get_type_hints"), (Ordinary, "cast NamedTuple TypedDict")]),
    Row::plain("unicodedata"),
    Row::odd("unittest", Indirect),
    Row::bad("unittest.mock", Indirect),
    Row::bad("urllib", Network),
    Row::plain("urllib.parse"),
    Row::bad("urllib2", Network),
    Row::types("urlparse"),
    Row::bad("user", Exec),
    Row::bad("usercustomize", Import),
    Row::odd("uu", Indirect),
    Row::bad("uuid", Exec).but(&[(Ordinary, "UUID SafeUUID")]),
    Row::bad("venv", Exec),
    Row::types("warnings").but(&[(Ordinary, "warn catch_warnings")]),
    Row::odd("wave", File),
    Row::types("weakref").but(&[(Ordinary, "ref proxy"), (Suspicious(Indirect), "finalize WeakMethod")]),
    Row::bad("webbrowser", Exec),
    Row::bad("whichdb", File),
    Row::odd("winreg", File),
    Row::odd("winsound", Indirect),
    Row::bad("wsgiref", Network),
    Row::types("xml"),
    Row::bad("xmlrpc", Network),
    Row::bad("xmlrpclib", Network),
    Row::odd("xxlimited", Indirect),
    Row::odd("xxsubtype", Indirect),
    Row::bad("zipapp", File),
    Row::bad("zipfile", File).but(&[(Ordinary, "ZipInfo BadZipFile BadZipfile LargeZipFile")]),
    Row::bad("zipimport", Import),
    Row::odd("zlib", Indirect),
    Row::types("zoneinfo").but(&[(Ordinary, "ZoneInfo._unpickle")]),
];

/// Whether a name is that of a module, which another module gives away when it imports it.
pub(super) fn is_module(name: &[u8]) -> bool {
    super::table::get(ROWS, name, false).is_some()
        && !matches!(
            name,
            b"array"
                | b"copy"
                | b"time"
                | b"datetime"
                | b"random"
                | b"select"
                | b"trace"
                | b"signal"
                | b"repr"
                | b"stat"
                | b"string"
                | b"operator"
                | b"queue"
                | b"resource"
                | b"token"
                | b"statistics"
                | b"struct"
                | b"types"
                | b"code"
                | b"test"
                | b"profile"
                | b"locale"
                | b"math"
                | b"calendar"
                | b"enum"
                | b"formatter"
                | b"sets"
                | b"chunk"
                | b"wave"
                | b"new"
                | b"user"
        )
}

/// Modules that are a way to everything: a name that walks into one is not a model's.
pub(super) fn is_powerful(component: &[u8]) -> bool {
    // Modules import others under names with an underscore before them.
    matches!(
        component,
        b"_os"
            | b"_sys"
            | b"_subprocess"
            | b"_builtins"
            | b"_importlib"
            | b"_shutil"
            | b"os"
            | b"posix"
            | b"nt"
            | b"sys"
            | b"subprocess"
            | b"builtins"
            | b"__builtin__"
            | b"__builtins__"
            | b"importlib"
            | b"shutil"
            | b"socket"
            | b"ctypes"
            | b"pickle"
            | b"_pickle"
            | b"cPickle"
            | b"marshal"
            | b"runpy"
            | b"pty"
            | b"commands"
            | b"urllib"
            | b"urllib2"
            | b"requests"
            | b"ftplib"
            | b"smtplib"
            | b"tempfile"
            | b"multiprocessing"
            | b"pkgutil"
            | b"imp"
            | b"linecache"
            | b"asyncio"
            | b"webbrowser"
            | b"_posixsubprocess"
            | b"pdb"
            | b"codeop"
    )
}
