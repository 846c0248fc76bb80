//! Kernels from PTX.

use std::ptr;
use std::sync::Arc;

use nixl_device::cuda::{Buffer, Module, ModuleError, Stream};

use crate::support::{download, one_gpu, upload};

/// `fill(words, count, value)`: writes `value + index` to each of `count` words.
/// `fault(words)`: writes to the first page, which is not mapped.
pub(crate) const PTX: &str = "
.version 6.4
.target sm_70
.address_size 64
.visible .entry fill(.param .u64 words, .param .u32 count, .param .u32 value)
{
    .reg .pred %p; .reg .u32 %r<8>; .reg .u64 %d<4>;
    ld.param.u64 %d0, [words]; ld.param.u32 %r0, [count]; ld.param.u32 %r1, [value];
    cvta.to.global.u64 %d1, %d0;
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r0;
    @%p bra DONE;
    mul.wide.u32 %d2, %r5, 4;
    add.u64 %d3, %d1, %d2;
    add.u32 %r6, %r1, %r5;
    st.global.u32 [%d3], %r6;
DONE:
    ret;
}
.visible .entry fault()
{
    .reg .u64 %d; .reg .u32 %r;
    mov.u64 %d, 16; mov.u32 %r, 1;
    st.global.u32 [%d], %r;
    ret;
}
";

#[test]
fn a_kernel_writes_what_it_was_told_to() {
    let Some(context) = one_gpu("kernels::a_kernel_writes_what_it_was_told_to") else {
        return;
    };
    let module = Module::load_ptx(&context, PTX).unwrap();
    let function = module.function("fill").unwrap();
    let stream = Stream::new(&context).unwrap();
    let memory = upload(&context, &[0xEE; 4004]);
    let (mut words, mut count, mut value) = (memory.address(), 1000_u32, 7_u32);
    let mut params = [
        ptr::from_mut(&mut words).cast(),
        ptr::from_mut(&mut count).cast(),
        ptr::from_mut(&mut value).cast(),
    ];
    // SAFETY: the parameters are those of the kernel, which writes 4000 of the 4004 bytes; the memory stays.
    unsafe { function.launch([4, 1, 1], [256, 1, 1], 0, &mut params, &stream) }.unwrap();
    stream.keep((Arc::clone(&memory), function)).unwrap();
    stream.synchronize().unwrap();
    let bytes = download(&context, &Buffer::from(memory));
    let (words, _) = bytes.as_chunks::<4>();
    assert!(words[..1000].iter().map(|word| u32::from_le_bytes(*word)).eq(7..1007));
    assert_eq!(words[1000], [0xEE; 4]);
}

#[test]
fn bad_ptx_and_unknown_kernels_are_errors() {
    let Some(context) = one_gpu("kernels::bad_ptx_and_unknown_kernels_are_errors") else {
        return;
    };
    let error = Module::load_ptx(&context, "no PTX at all").unwrap_err();
    println!("{error}");
    assert!(matches!(&error, ModuleError::Rejected { log, .. } if !log.is_empty()), "{error:?}");
    let module = Module::load_ptx(&context, PTX).unwrap();
    let error = module.function("none").unwrap_err();
    println!("{error}");
    assert!(matches!(error, ModuleError::NoSuchFunction { .. }), "{error:?}");
    let function = module.function("fault").unwrap();
    let stream = Stream::new(&context).unwrap();
    // SAFETY: a block this large is refused, so nothing runs.
    let launched = unsafe { function.launch([1, 1, 1], [4096, 1, 1], 0, &mut [], &stream) };
    assert!(launched.is_err_and(|error| !error.is_sticky()));
    context.health().unwrap();
}
