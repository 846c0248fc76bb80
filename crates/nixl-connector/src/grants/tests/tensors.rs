//! Exports that say which tensor each block of a layout is.

use nixl_descriptor::tensor::{DType, TensorLayout};
use nixl_metadata::{ExportMetadata, MetadataError};

use super::*;
use crate::ExportOptions;

fn tensor(dtype: DType, last: usize) -> TensorLayout {
    TensorLayout::new(dtype, &[3, 2, 4, last]).unwrap()
}

#[tokio::test]
async fn a_reader_learns_which_tensor_a_block_is() {
    let world = World::new().await;
    let bf16 = tensor(DType::BF16, 8);
    let options = ExportOptions::new().block_tensor("typed", bf16.clone());
    let layouts = [("plain", contiguous().0), ("typed", per_layer().0)];
    let export = world.owner.export_with(layouts, options).await.unwrap();
    let metadata = ExportMetadata::decode(&export.metadata().encode().unwrap()).unwrap();
    let remote = world.reader.import_unless(&metadata, None, ImportOptions::new()).await.unwrap();
    assert_eq!(remote.block_tensor("typed"), Ok(bf16.clone()));
    assert_eq!(bf16.byte_len(), geometry().block_len());
    assert_eq!(remote.block_tensor("plain"), Err(ConnectorError::NoTensor));
    let layout = "other".to_owned();
    assert_eq!(remote.block_tensor("other"), Err(ConnectorError::NoSuchLayout { layout }));
}

#[tokio::test]
async fn a_tensor_that_is_no_block_is_refused_by_its_owner() {
    let world = World::new().await;
    let export = async |name: &str, tensor| {
        let options = ExportOptions::new().block_tensor(name, tensor);
        world.owner.export_with([("full", contiguous().0)], options).await.map(drop)
    };
    let bytes = geometry().block_len() as u64;
    let (layout, described) = (0, 2 * bytes);
    let wrong = MetadataError::BlockTensorBytes { layout, described, block: bytes };
    let error = export("full", tensor(DType::F32, 8)).await.unwrap_err();
    assert_eq!(error, ConnectorError::Metadata(wrong));
    let layout = "window".to_owned();
    let error = export("window", tensor(DType::BF16, 8)).await.unwrap_err();
    assert_eq!(error, ConnectorError::NoSuchLayout { layout });
}
