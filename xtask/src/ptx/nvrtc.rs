//! Calls NVRTC.
#![allow(unsafe_code, reason = "calling a C library that is loaded at run time")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use anyhow::{Context as _, Result, bail, ensure};
use libloading::{Library, Symbol};

type Program = *mut c_void;
type Status = c_int;
type GetSize = unsafe extern "C" fn(Program, *mut usize) -> Status;
type GetText = unsafe extern "C" fn(Program, *mut c_char) -> Status;

/// Compiles `source`, which messages call `name`, to PTX.
pub(super) fn compile(
    library: &Path,
    name: &str,
    source: &str,
    options: &[&str],
) -> Result<String> {
    // SAFETY: NVRTC's constructors only prepare its own state.
    let library = unsafe { Library::new(library) }
        .with_context(|| format!("cannot load {}", library.display()))?;
    let program = Compilation::new(&library, name, source)?;
    let compiled = program.compile(options);
    let log = program.text(b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog")?;
    if let Err(error) = compiled {
        bail!("{name} does not compile: {error}\n{log}");
    }
    ensure!(log.is_empty(), "{name} compiles with warnings:\n{log}");
    program.text(b"nvrtcGetPTXSize", b"nvrtcGetPTX")
}

struct Compilation<'a> {
    library: &'a Library,
    program: Program,
}

impl<'a> Compilation<'a> {
    fn new(library: &'a Library, name: &str, source: &str) -> Result<Self> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> Status;
        let (name, source) = (CString::new(name)?, CString::new(source)?);
        // SAFETY: this is the type that nvrtc.h declares.
        let create: Symbol<'_, Create> = unsafe { library.get(b"nvrtcCreateProgram") }?;
        let mut program: Program = ptr::null_mut();
        // SAFETY: the texts end with a zero and are copied; with no headers the lists may be null.
        let status = unsafe {
            create(&mut program, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null())
        };
        check(library, "nvrtcCreateProgram", status)?;
        Ok(Self { library, program })
    }

    fn compile(&self, options: &[&str]) -> Result<()> {
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
        let options: Vec<CString> =
            options.iter().map(|option| CString::new(*option)).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len())?;
        // SAFETY: this is the type that nvrtc.h declares.
        let compile: Symbol<'_, Compile> = unsafe { self.library.get(b"nvrtcCompileProgram") }?;
        // SAFETY: the program is alive, and so are the `count` options.
        let status = unsafe { compile(self.program, count, pointers.as_ptr()) };
        check(self.library, "nvrtcCompileProgram", status)
    }

    /// A text that one function gives the size of, with a zero at its end, and another the bytes.
    fn text(&self, size_of: &[u8], text_of: &[u8]) -> Result<String> {
        // SAFETY: nvrtc.h declares all functions for sizes like this.
        let size_of: Symbol<'_, GetSize> = unsafe { self.library.get(size_of) }?;
        // SAFETY: nvrtc.h declares all functions for texts like this.
        let text_of: Symbol<'_, GetText> = unsafe { self.library.get(text_of) }?;
        let mut size = 0;
        // SAFETY: the program is alive.
        let status = unsafe { size_of(self.program, &mut size) };
        check(self.library, "asking for a size", status)?;
        let mut bytes = vec![0u8; size];
        // SAFETY: the program is alive and there is room for what it said it has.
        let status = unsafe { text_of(self.program, bytes.as_mut_ptr().cast()) };
        check(self.library, "asking for a text", status)?;
        let text = CStr::from_bytes_until_nul(&bytes)
            .context("NVRTC returned a text without a terminating zero")?;
        Ok(text.to_str()?.to_owned())
    }
}

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        type Destroy = unsafe extern "C" fn(*mut Program) -> Status;
        // SAFETY: this is the type that nvrtc.h declares.
        let destroy = unsafe { self.library.get::<Destroy>(b"nvrtcDestroyProgram") };
        if let Ok(destroy) = destroy {
            // SAFETY: the program is alive and is not used again.
            unsafe { destroy(&mut self.program) };
        }
    }
}

fn check(library: &Library, what: &str, status: Status) -> Result<()> {
    type Name = unsafe extern "C" fn(Status) -> *const c_char;
    if status == 0 {
        return Ok(());
    }
    // SAFETY: this is the type that nvrtc.h declares.
    let name: Symbol<'_, Name> = unsafe { library.get(b"nvrtcGetErrorString") }?;
    // SAFETY: takes any number.
    let name = unsafe { name(status) };
    if name.is_null() {
        bail!("{what} failed: status {status}");
    }
    // SAFETY: a string literal inside NVRTC, which is loaded.
    let name = unsafe { CStr::from_ptr(name) };
    bail!("{what} failed: {}", name.to_string_lossy())
}
