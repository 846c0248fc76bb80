//! Size classes: sizes rounded up so that freed memory fits the next request.

/// The size of the class that `len`, which is not 0, belongs to: at least `smallest`, a power of two, and at most a
/// quarter more than `len` above it. `None` if that is no size.
pub(super) fn size_class(len: usize, smallest: usize) -> Option<usize> {
    let len = len.max(smallest);
    // Four classes from one power of two to the next.
    let power = 1_usize << (usize::BITS - 1 - (len - 1).max(1).leading_zeros());
    let step = (power / 4).max(1);
    let size = len.checked_next_multiple_of(step)?;
    isize::try_from(size).is_ok().then_some(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn classes_are_few_close_and_stable(len in 1..1_usize << 40, smallest in 8..14_u32) {
            let smallest = 1 << smallest;
            let size = size_class(len, smallest).unwrap();
            prop_assert!(size >= len && size >= smallest);
            prop_assert!(size - len.max(smallest) <= len.max(smallest) / 4);
            prop_assert_eq!(size_class(size, smallest), Some(size));
            prop_assert!(size_class(len + 1, smallest).unwrap() >= size);
            // Only four between two powers of two.
            let power = size.next_power_of_two();
            prop_assert_eq!(size % (power / 8), 0);
        }
    }

    #[test]
    fn what_no_allocation_can_have_has_no_class() {
        assert_eq!(size_class(usize::MAX, 512), None);
        assert_eq!(size_class(isize::MAX as usize, 512), None);
        assert_eq!(size_class(1, 512), Some(512));
    }
}
