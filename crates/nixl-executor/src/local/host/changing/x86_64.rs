//! Copies in assembly, about whose bytes the compiler assumes nothing.
//!
//! Short copies move their two ends, which overlap. For long ones `rep movsb` is the fastest, if the processor announces it, but it
//! takes some 30 cycles to begin; in between, a loop of AVX registers is as fast as the C library's.

use std::arch::asm;

/// Bytes that the loop moves at a time.
const BLOCK: usize = 128;
/// From this length on, `rep movsb` is no slower than the loop.
const STRING: usize = 4096;

/// Copies `len` bytes.
///
/// # Safety
///
/// As for [`copy_bytes`](super::copy_bytes).
#[inline]
pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY (of all calls): the caller vouches for `len` bytes, and no call moves bytes after them.
    match len {
        0 => {}
        1..4 => {
            for at in [0, len / 2, len - 1] {
                // SAFETY: above.
                unsafe { byte(src, dst, at) };
            }
        }
        // SAFETY: above.
        4..8 => unsafe { ends_of_4(src, dst, len - 4) },
        // SAFETY: above.
        8..16 => unsafe { ends_of_8(src, dst, len - 8) },
        // SAFETY: above.
        16..32 => unsafe { ends_of_16(src, dst, len - 16) },
        // SAFETY: above.
        32..=64 => unsafe { ends_of_32(src, dst, len - 32) },
        // SAFETY: above.
        65..=BLOCK => unsafe { ends_of_64(src, dst, len - 64) },
        // SAFETY: above.
        _ => unsafe { long(src, dst, len) },
    }
}

/// Copies more than a block. Not part of the function above, where it would cost short copies a stack frame.
///
/// # Safety
///
/// As for [`copy`].
#[inline(never)]
unsafe fn long(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY (of all calls): the caller vouches for `len` bytes, and no call moves bytes after them.
    if (len < STRING || !is_x86_feature_detected!("ermsb")) && is_x86_feature_detected!("avx") {
        // SAFETY: above; the processor has AVX, and there is more than a block.
        unsafe { blocks(src, dst, len) };
    } else {
        // SAFETY: above.
        unsafe { string(src, dst, len) };
    }
}

/// Moves the byte at `at`.
///
/// # Safety
///
/// As for [`copy`], of `at + 1` bytes.
#[inline]
unsafe fn byte(src: *const u8, dst: *mut u8, at: usize) {
    // SAFETY: the caller vouches for the byte. Nothing else changes.
    unsafe {
        asm!(
            "mov {byte}, [{src} + {at}]",
            "mov [{dst} + {at}], {byte}",
            src = in(reg) src, dst = in(reg) dst, at = in(reg) at, byte = out(reg_byte) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 4 bytes at the start and 4 at `last`.
///
/// # Safety
///
/// As for [`copy`], of `last + 4` bytes.
#[inline]
unsafe fn ends_of_4(src: *const u8, dst: *mut u8, last: usize) {
    // SAFETY: the caller vouches for the bytes. Nothing else changes.
    unsafe {
        asm!(
            "mov {a:e}, [{src}]",
            "mov {b:e}, [{src} + {last}]",
            "mov [{dst}], {a:e}",
            "mov [{dst} + {last}], {b:e}",
            src = in(reg) src, dst = in(reg) dst, last = in(reg) last, a = out(reg) _, b = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 8 bytes at the start and 8 at `last`.
///
/// # Safety
///
/// As for [`copy`], of `last + 8` bytes.
#[inline]
unsafe fn ends_of_8(src: *const u8, dst: *mut u8, last: usize) {
    // SAFETY: the caller vouches for the bytes. Nothing else changes.
    unsafe {
        asm!(
            "mov {a}, [{src}]",
            "mov {b}, [{src} + {last}]",
            "mov [{dst}], {a}",
            "mov [{dst} + {last}], {b}",
            src = in(reg) src, dst = in(reg) dst, last = in(reg) last, a = out(reg) _, b = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 16 bytes at the start and 16 at `last`.
///
/// # Safety
///
/// As for [`copy`], of `last + 16` bytes.
#[inline]
unsafe fn ends_of_16(src: *const u8, dst: *mut u8, last: usize) {
    // SAFETY: the caller vouches for the bytes. Nothing else changes.
    unsafe {
        asm!(
            "movups {a}, [{src}]",
            "movups {b}, [{src} + {last}]",
            "movups [{dst}], {a}",
            "movups [{dst} + {last}], {b}",
            src = in(reg) src, dst = in(reg) dst, last = in(reg) last,
            a = out(xmm_reg) _, b = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 32 bytes at the start and 32 at `last`.
///
/// # Safety
///
/// As for [`copy`], of `last + 32` bytes.
#[inline]
unsafe fn ends_of_32(src: *const u8, dst: *mut u8, last: usize) {
    // SAFETY: the caller vouches for the bytes. Nothing else changes.
    unsafe {
        asm!(
            "movups {a}, [{src}]",
            "movups {b}, [{src} + 16]",
            "movups {c}, [{src} + {last}]",
            "movups {d}, [{src} + {last} + 16]",
            "movups [{dst}], {a}",
            "movups [{dst} + 16], {b}",
            "movups [{dst} + {last}], {c}",
            "movups [{dst} + {last} + 16], {d}",
            src = in(reg) src, dst = in(reg) dst, last = in(reg) last,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 64 bytes at the start and 64 at `last`.
///
/// # Safety
///
/// As for [`copy`], of `last + 64` bytes.
#[inline]
unsafe fn ends_of_64(src: *const u8, dst: *mut u8, last: usize) {
    // SAFETY: the caller vouches for the bytes.
    unsafe { ends_of_32(src, dst, 32) };
    // SAFETY: as above.
    unsafe { ends_of_32(src.wrapping_add(last), dst.wrapping_add(last), 32) };
}

/// Moves more than a block: one at each end, and those between from where the target is aligned.
///
/// # Safety
///
/// As for [`copy`], of `len` bytes, more than a block; and the processor has AVX.
unsafe fn blocks(src: *const u8, dst: *mut u8, len: usize) {
    let last = len - BLOCK;
    // The last such place that the first block reaches.
    let head = BLOCK - dst as usize % 32;
    let middle = last.saturating_sub(head).div_ceil(BLOCK);
    // SAFETY: the caller vouches for the bytes and for AVX. All registers with an upper half, which `vzeroupper` clears, are named.
    unsafe {
        asm!(
            "vmovdqu ymm0, [{src}]",
            "vmovdqu ymm1, [{src} + 32]",
            "vmovdqu ymm2, [{src} + 64]",
            "vmovdqu ymm3, [{src} + 96]",
            "vmovdqu ymm4, [{src} + {last}]",
            "vmovdqu ymm5, [{src} + {last} + 32]",
            "vmovdqu ymm6, [{src} + {last} + 64]",
            "vmovdqu ymm7, [{src} + {last} + 96]",
            "lea {last}, [{dst} + {last}]",
            "vmovdqu [{dst}], ymm0",
            "vmovdqu [{dst} + 32], ymm1",
            "vmovdqu [{dst} + 64], ymm2",
            "vmovdqu [{dst} + 96], ymm3",
            "add {src}, {head}",
            "add {dst}, {head}",
            "test {middle}, {middle}",
            "jz 3f",
            ".p2align 5",
            "2:",
            "vmovdqu ymm0, [{src}]",
            "vmovdqu ymm1, [{src} + 32]",
            "vmovdqu ymm2, [{src} + 64]",
            "vmovdqu ymm3, [{src} + 96]",
            "vmovdqa [{dst}], ymm0",
            "vmovdqa [{dst} + 32], ymm1",
            "vmovdqa [{dst} + 64], ymm2",
            "vmovdqa [{dst} + 96], ymm3",
            "sub {src}, -128",
            "sub {dst}, -128",
            "dec {middle}",
            "jnz 2b",
            "3:",
            "vmovdqu [{last}], ymm4",
            "vmovdqu [{last} + 32], ymm5",
            "vmovdqu [{last} + 64], ymm6",
            "vmovdqu [{last} + 96], ymm7",
            "vzeroupper",
            src = inout(reg) src => _, dst = inout(reg) dst => _, last = inout(reg) last => _,
            head = in(reg) head, middle = inout(reg) middle => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(nostack),
        );
    }
}

/// Moves `len` bytes by one instruction.
///
/// # Safety
///
/// As for [`copy`].
unsafe fn string(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller vouches for the bytes; the direction flag is clear wherever assembly begins.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _, inout("rsi") src => _, inout("rdi") dst => _,
            options(nostack, preserves_flags),
        );
    }
}
