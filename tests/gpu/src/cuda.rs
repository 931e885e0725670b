//! As much of CUDA's driver interface as loads need. The library is opened by name; nothing of NVIDIA's is needed to build this.
//!
//! Every call's code is checked, and an error names the call.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    ptr,
    time::{Duration, Instant},
};

use libloading::Library;

/// What the driver compiles; ends with a zero, as it wants.
const KERNELS: &str = concat!(include_str!("kernels.ptx"), "\0");

/// Of each thread block, and how many of them: enough for any card.
const THREADS: c_uint = 256;
const BLOCKS: c_uint = 4_096;
/// Words of memory that a load works on: 1 GiB, more than any cache.
const WORDS: u64 = 256 << 20;
/// How long one launch should take: long enough to be all that the card does, short enough to stop in time.
const LAUNCH: Duration = Duration::from_millis(200);

type Code = c_int;
type Handle = *mut c_void;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// Products of matrices of bfloat16, on tensor cores.
    Matrix,
    /// Streams FP32 numbers from memory and back.
    Stream,
    /// Integers alone.
    Hash,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Matrix, Self::Stream, Self::Hash];

    /// Its kernel, and its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Stream => "stream",
            Self::Hash => "hash",
        }
    }

    fn symbol(self) -> &'static CStr {
        match self {
            Self::Matrix => c"matrix",
            Self::Stream => c"stream",
            Self::Hash => c"hash",
        }
    }
}

/// The driver's library.
struct Cuda(Library);

impl Cuda {
    fn open() -> Result<Self, String> {
        // SAFETY: the driver's library runs no code of ours while it is opened, and what it runs is trusted as the driver is.
        let library = unsafe { Library::new("libcuda.so.1") };
        library
            .map(Self)
            .map_err(|error| format!("libcuda.so.1 cannot be opened: {error}"))
    }

    /// Calls a function of the driver's; `call` gets it as the type that it is given here.
    fn call<F: Copy>(&self, name: &str, call: impl FnOnce(F) -> Code) -> Result<(), String> {
        // SAFETY: each caller below gives the signature that cuda.h declares for this name.
        let function = unsafe { self.0.get::<F>(name.as_bytes()) };
        let function = function.map_err(|error| format!("{name} is missing: {error}"))?;
        match call(*function) {
            0 => Ok(()),
            code => Err(format!("{name} failed with CUresult {code}")),
        }
    }
}

/// How many cards there are; an error says why there are none to use.
pub fn count() -> Result<usize, String> {
    let cuda = Cuda::open()?;
    let mut count: c_int = 0;
    // SAFETY: the functions take an integer, and a pointer to one that outlives the call.
    unsafe {
        cuda.call("cuInit", |init: unsafe extern "C" fn(c_uint) -> Code| {
            init(0)
        })?;
        cuda.call(
            "cuDeviceGetCount",
            |get: unsafe extern "C" fn(*mut c_int) -> Code| get(&raw mut count),
        )?;
    }
    match usize::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("the driver shows no GPU".into()),
    }
}

/// Keeps the first card busy for so long. The process is to end afterwards: it frees what was taken.
pub fn keep_busy(load: Load, time: Duration) -> Result<u64, String> {
    let cuda = Cuda::open()?;
    let mut device: c_int = 0;
    let mut context: Handle = ptr::null_mut();
    let mut module: Handle = ptr::null_mut();
    let mut function: Handle = ptr::null_mut();
    let mut memory: u64 = 0;
    // SAFETY: all pointers are to variables that outlive the calls; texts end with a zero.
    unsafe {
        cuda.call("cuInit", |init: unsafe extern "C" fn(c_uint) -> Code| {
            init(0)
        })?;
        cuda.call(
            "cuDeviceGet",
            |get: unsafe extern "C" fn(*mut c_int, c_int) -> Code| get(&raw mut device, 0),
        )?;
        cuda.call(
            "cuCtxCreate_v2",
            |create: unsafe extern "C" fn(*mut Handle, c_uint, c_int) -> Code| {
                create(&raw mut context, 0, device)
            },
        )?;
        cuda.call(
            "cuModuleLoadData",
            |open: unsafe extern "C" fn(*mut Handle, *const c_void) -> Code| {
                open(&raw mut module, KERNELS.as_ptr().cast())
            },
        )?;
        cuda.call(
            "cuModuleGetFunction",
            |get: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> Code| {
                get(&raw mut function, module, load.symbol().as_ptr())
            },
        )?;
        cuda.call(
            "cuMemAlloc_v2",
            |get: unsafe extern "C" fn(*mut u64, usize) -> Code| {
                get(&raw mut memory, (WORDS * 4) as usize)
            },
        )?;
        // Zeros: every bit pattern is a number, but what is left there may be slow ones.
        cuda.call(
            "cuMemsetD32_v2",
            |set: unsafe extern "C" fn(u64, c_uint, usize) -> Code| set(memory, 0, WORDS as usize),
        )?;
    }
    let mut rounds: u32 = 1;
    let mut launches = 0;
    let begun = Instant::now();
    while begun.elapsed() < time {
        let launched = Instant::now();
        launch(&cuda, function, memory, rounds)?;
        launches += 1;
        // Cards differ by orders of magnitude: the first launches find out how much work is enough.
        if launched.elapsed() < LAUNCH {
            rounds = rounds.saturating_mul(2);
        }
    }
    Ok(launches)
}

fn launch(cuda: &Cuda, function: Handle, memory: u64, rounds: u32) -> Result<(), String> {
    type Launch = unsafe extern "C" fn(
        Handle,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        Handle,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> Code;
    let (mut out, mut words, mut rounds) = (memory, WORDS, rounds);
    let mut arguments: [*mut c_void; 3] = [
        (&raw mut out).cast(),
        (&raw mut words).cast(),
        (&raw mut rounds).cast(),
    ];
    // SAFETY: the kernel takes these three parameters, of these sizes; they outlive the call, which copies them. Threads write within
    // the memory: there are fewer of them than words, and `stream` compares.
    unsafe {
        cuda.call("cuLaunchKernel", |start: Launch| {
            start(
                function,
                BLOCKS,
                1,
                1,
                THREADS,
                1,
                1,
                0,
                ptr::null_mut(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        })?;
        cuda.call(
            "cuCtxSynchronize",
            |wait: unsafe extern "C" fn() -> Code| wait(),
        )
    }
}
