//! The descriptors of one transfer.

use std::slice;
use std::sync::Arc;

use crate::dependency::Dependency;
use crate::descriptor::{Descriptor, DescriptorError};
use crate::region::Region;
use crate::tensor::TensorLayout;

/// At least one descriptor, in order, with a total size that fits into 64 bits.
///
/// Descriptors may come from different regions and devices, and may overlap; see the crate's documentation.
#[derive(Clone, Debug)]
pub struct DescriptorList {
    descriptors: Descriptors,
    total_bytes: u64,
    pending: Vec<Arc<dyn Dependency>>,
    tensor: Option<Arc<TensorLayout>>,
}

/// Most lists have one descriptor, which is kept in place.
#[derive(Clone, Debug)]
enum Descriptors {
    One(Descriptor),
    /// Two or more.
    Many(Vec<Descriptor>),
}

impl DescriptorList {
    /// The same memory, which operations leave alone until this work is done, and what was named before.
    #[must_use]
    pub fn after(mut self, work: Arc<dyn Dependency>) -> Self {
        self.pending.push(work);
        self
    }

    /// The work to be done first.
    #[must_use]
    pub fn pending(&self) -> &[Arc<dyn Dependency>] {
        &self.pending
    }

    pub(crate) fn of_tensor(mut self, layout: Arc<TensorLayout>) -> Self {
        self.tensor = Some(layout);
        self
    }

    /// The layout of the [tensor](crate::tensor::Tensor) that the list was made of: the descriptors are its elements in row-major
    /// order.
    #[must_use]
    pub fn tensor(&self) -> Option<&TensorLayout> {
        self.tensor.as_deref()
    }

    /// The descriptors, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Descriptor] {
        match &self.descriptors {
            Descriptors::One(descriptor) => slice::from_ref(descriptor),
            Descriptors::Many(descriptors) => descriptors,
        }
    }

    /// The descriptors, in order.
    pub fn iter(&self) -> slice::Iter<'_, Descriptor> {
        self.as_slice().iter()
    }

    /// Number of descriptors, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a list is never empty")]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Number of bytes of all descriptors together; bytes described twice count twice.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The descriptors, in order, without the work that is to be done first.
    #[must_use]
    pub fn into_vec(self) -> Vec<Descriptor> {
        match self.descriptors {
            Descriptors::One(descriptor) => vec![descriptor],
            Descriptors::Many(descriptors) => descriptors,
        }
    }
}

impl From<Descriptor> for DescriptorList {
    fn from(descriptor: Descriptor) -> Self {
        let total_bytes = descriptor.len() as u64;
        let descriptors = Descriptors::One(descriptor);
        Self { descriptors, total_bytes, pending: Vec::new(), tensor: None }
    }
}

/// The whole region.
impl From<Region> for DescriptorList {
    fn from(region: Region) -> Self {
        Descriptor::from(region).into()
    }
}

impl TryFrom<Vec<Descriptor>> for DescriptorList {
    type Error = DescriptorError;

    fn try_from(descriptors: Vec<Descriptor>) -> Result<Self, DescriptorError> {
        if descriptors.is_empty() {
            return Err(DescriptorError::EmptyList);
        }
        let total_bytes = descriptors
            .iter()
            .try_fold(0u64, |sum, descriptor| sum.checked_add(descriptor.len() as u64))
            .ok_or(DescriptorError::TotalOverflow)?;
        let descriptors = match <[Descriptor; 1]>::try_from(descriptors) {
            Ok([one]) => Descriptors::One(one),
            Err(descriptors) => Descriptors::Many(descriptors),
        };
        Ok(Self { descriptors, total_bytes, pending: Vec::new(), tensor: None })
    }
}

impl AsRef<[Descriptor]> for DescriptorList {
    fn as_ref(&self) -> &[Descriptor] {
        self.as_slice()
    }
}

impl IntoIterator for DescriptorList {
    type Item = Descriptor;
    type IntoIter = std::vec::IntoIter<Descriptor>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_vec().into_iter()
    }
}

impl<'a> IntoIterator for &'a DescriptorList {
    type Item = &'a Descriptor;
    type IntoIter = slice::Iter<'a, Descriptor>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
