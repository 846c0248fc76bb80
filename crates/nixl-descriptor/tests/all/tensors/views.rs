//! Every view has the elements that a naive calculation of indices finds.

use nixl_descriptor::tensor::{DType, Tensor, TensorError, TensorLayout};
use nixl_descriptor::{DescriptorList, Region};
use proptest::prelude::*;

/// A shape, and the position of each element in the memory, in row-major order.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    shape: Vec<usize>,
    positions: Vec<usize>,
}

/// All indices of a shape, in row-major order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    shape.iter().fold(vec![Vec::new()], |all, &size| {
        all.iter().flat_map(|index| (0..size).map(move |at| [&index[..], &[at]].concat())).collect()
    })
}

impl Model {
    fn of(shape: &[usize], strides: &[usize]) -> Self {
        let position =
            |index: Vec<usize>| index.iter().zip(strides).map(|(at, stride)| at * stride).sum();
        Self {
            shape: shape.to_vec(),
            positions: indices(shape).into_iter().map(position).collect(),
        }
    }

    /// The position of the element at an index.
    fn at(&self, index: &[usize]) -> usize {
        let sizes = index.iter().zip(&self.shape);
        self.positions[sizes.fold(0, |before, (at, size)| before * size + at)]
    }

    /// A model of another shape, by the index here of each index there.
    fn map(&self, shape: Vec<usize>, index: impl Fn(Vec<usize>) -> Vec<usize>) -> Self {
        let positions = indices(&shape).into_iter().map(|there| self.at(&index(there))).collect();
        Self { shape, positions }
    }

    fn permute(&self, axes: &[usize]) -> Self {
        self.map(axes.iter().map(|&axis| self.shape[axis]).collect(), |there| {
            let mut here = vec![0; there.len()];
            axes.iter().zip(there).for_each(|(&axis, at)| here[axis] = at);
            here
        })
    }

    fn slice(&self, axis: usize, start: usize, end: usize) -> Self {
        let mut shape = self.shape.clone();
        shape[axis] = end - start;
        self.map(shape, |mut index| {
            index[axis] += start;
            index
        })
    }

    fn select(&self, axis: usize, at: usize) -> Self {
        let mut shape = self.shape.clone();
        shape.remove(axis);
        self.map(shape, |mut index| {
            index.insert(axis, at);
            index
        })
    }

    fn is_contiguous(&self) -> bool {
        self.positions.windows(2).all(|pair| pair[1] == pair[0] + 1)
    }
}

/// Sizes, and strides that nest, with gaps, in any order of the dimensions.
fn any_layout() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    let dimensions = proptest::collection::vec((1..5usize, 0..3usize), 0..5);
    (dimensions, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(mut dims, turn, gaps)| {
        let mut extent = 1;
        let mut strides: Vec<usize> = dims
            .iter()
            .rev()
            .map(|&(size, gap)| {
                let stride = extent + if gaps { gap } else { 0 };
                extent = stride * size;
                stride
            })
            .collect();
        strides.reverse();
        if gaps && !dims.is_empty() {
            let turn = turn.index(dims.len());
            dims.rotate_left(turn);
            strides.rotate_left(turn);
        }
        (dims.into_iter().map(|(size, _)| size).collect(), strides)
    })
}

/// A view: what to do, and numbers that are made to suit.
type Step = (u8, prop::sample::Index, prop::sample::Index, prop::sample::Index);

fn apply(tensor: &Tensor, model: &Model, (what, a, b, c): Step) -> (Tensor, Model) {
    let rank = model.shape.len();
    match what % 4 {
        0 => {
            let mut axes: Vec<usize> = (0..rank).collect();
            if rank > 0 {
                axes.swap(a.index(rank), b.index(rank));
                axes.rotate_left(c.index(rank));
            }
            (tensor.permute(&axes).unwrap(), model.permute(&axes))
        }
        1 if rank > 0 => {
            let axis = a.index(rank);
            let (start, other) = (b.index(model.shape[axis]), c.index(model.shape[axis]));
            let (start, end) = (start.min(other), start.max(other) + 1);
            (tensor.slice(axis, start..end).unwrap(), model.slice(axis, start, end))
        }
        2 if rank > 0 => {
            let axis = a.index(rank);
            let at = b.index(model.shape[axis]);
            (tensor.select(axis, at).unwrap(), model.select(axis, at))
        }
        _ => {
            let count = model.positions.len();
            let divisors: Vec<usize> = (1..=count).filter(|n| count.is_multiple_of(*n)).collect();
            let first = divisors[a.index(divisors.len())];
            let shape = vec![first, 1, count / first];
            match tensor.reshape(&shape) {
                Ok(view) => {
                    assert!(model.is_contiguous());
                    (view, Model { shape, positions: model.positions.clone() })
                }
                Err(error) => {
                    assert!(matches!(error, TensorError::NotContiguous { .. }), "{error:?}");
                    assert!(!model.is_contiguous());
                    (tensor.clone(), model.clone())
                }
            }
        }
    }
}

/// The memory holds the position of each element.
fn check(tensor: &Tensor, model: &Model, first: usize) {
    assert_eq!(tensor.shape(), model.shape);
    let layout = Model::of(tensor.shape(), tensor.strides());
    let start = tensor.offset() / 4;
    let found: Vec<usize> = layout.positions.iter().map(|at| start + at).collect();
    let wanted: Vec<usize> = model.positions.iter().map(|at| first + at).collect();
    assert_eq!(found, wanted, "by the strides");
    let values = tensor.to_vec::<u32>().unwrap();
    assert_eq!(values.iter().map(|&at| at as usize).collect::<Vec<_>>(), wanted, "by the bytes");
    assert_eq!(tensor.is_contiguous(), model.is_contiguous());
    assert_eq!(tensor.layout().elements(), wanted.len());
    assert_eq!(tensor.layout().byte_len(), 4 * wanted.len());
    assert!(tensor.layout().to_contiguous().is_contiguous());

    let list = DescriptorList::try_from(tensor).unwrap();
    let bytes = list.iter().flat_map(|part| part.offset()..part.offset() + part.len());
    assert!(bytes.eq(wanted.iter().flat_map(|at| 4 * at..4 * at + 4)));
    let ends = list.as_slice().windows(2);
    assert!(ends.clone().all(|pair| pair[0].offset() + pair[0].len() != pair[1].offset()));
    assert_eq!(list.tensor(), Some(tensor.layout()));
    assert!(tensor.descriptors(list.len()).is_ok());
    if list.len() > 1 {
        let limit = list.len() - 1;
        let refused = tensor.descriptors(limit).map(|list| list.len());
        assert_eq!(refused, Err(TensorError::TooManyRuns { limit }));
    }
}

proptest! {
    #[test]
    fn views_have_the_elements_of_a_naive_calculation(
        (shape, strides) in any_layout(),
        first in 0..3usize,
        steps in proptest::collection::vec(any::<Step>(), 0..5),
    ) {
        let mut model = Model::of(&shape, &strides);
        let signed: Vec<i64> = strides.iter().map(|&stride| stride as i64).collect();
        let layout = TensorLayout::strided(DType::U32, &shape, &signed).unwrap();
        let last = model.positions.iter().max().unwrap();
        prop_assert_eq!(layout.span(), 4 * (last + 1));
        let memory = Region::from_pod((0..(first + last + 1) as u32).collect()).unwrap();
        let memory = memory.descriptor(4 * first..).unwrap();
        let mut tensor = Tensor::with_layout(memory, layout).unwrap();
        check(&tensor, &model, first);
        for step in steps {
            (tensor, model) = apply(&tensor, &model, step);
            check(&tensor, &model, first);
        }
    }

    /// What is accepted as strides shares no element, and what shares one is refused.
    #[test]
    fn strides_that_share_elements_are_refused(
        dimensions in proptest::collection::vec((1..5usize, 0..12usize), 0..4),
    ) {
        let (shape, strides): (Vec<usize>, Vec<usize>) = dimensions.into_iter().unzip();
        let signed: Vec<i64> = strides.iter().map(|&stride| stride as i64).collect();
        let mut positions = Model::of(&shape, &strides).positions;
        let count = positions.len();
        positions.sort_unstable();
        positions.dedup();
        match TensorLayout::strided(DType::U8, &shape, &signed) {
            Ok(_) => prop_assert_eq!(positions.len(), count),
            Err(error) => assert!(matches!(error, TensorError::Overlap { .. }), "{error:?}"),
        }
    }

    /// Half bytes: a view is made exactly if each run of it starts and ends at a byte.
    #[test]
    fn views_of_half_bytes_are_whole_bytes(
        shape in proptest::collection::vec(1..6usize, 1..4),
        step in any::<Step>(),
    ) {
        let count: usize = shape.iter().product();
        let whole = count.is_multiple_of(2);
        let memory = Region::zeroed(count.div_ceil(2)).unwrap();
        let tensor = match Tensor::new(memory, DType::F4, &shape) {
            Ok(tensor) => tensor,
            Err(error) => {
                assert!(!whole && matches!(error, TensorError::SubByte { .. }), "{error:?}");
                return Ok(());
            }
        };
        prop_assert!(whole);
        let axis = step.1.index(shape.len());
        let start = step.2.index(shape[axis]);
        let strides = tensor.strides().to_vec();
        let model = Model::of(&shape, &strides).slice(axis, start, shape[axis]);
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for &at in &model.positions {
            match runs.last_mut() {
                Some((_, end)) if *end == at => *end += 1,
                _ => runs.push((at, at + 1)),
            }
        }
        let fits = runs.iter().all(|(start, end)| start % 2 == 0 && end % 2 == 0);
        match tensor.slice(axis, start..) {
            Ok(view) => {
                prop_assert!(fits);
                let list = DescriptorList::try_from(&view).unwrap();
                let found: Vec<_> =
                    list.iter().map(|part| (2 * part.offset(), 2 * (part.offset() + part.len()))).collect();
                prop_assert_eq!(found, runs);
            }
            Err(error) => {
                assert!(!fits && matches!(error, TensorError::SubByte { .. }), "{error:?}");
            }
        }
    }
}
