//! The functions of the fake driver, by chapter.

mod device;
mod ipc;
mod memory;
mod module;
mod pool;
mod stream;
mod virtual_memory;

use device::{
    ctx_enable_peer_access, ctx_get_current, ctx_get_stream_priority_range, ctx_set_current,
    ctx_synchronize, device_can_access_peer, device_get, device_get_attribute, device_get_count,
    device_get_name, device_get_p2p_attribute, device_get_pci_bus_id, device_get_uuid,
    device_primary_ctx_retain, device_total_mem, driver_get_version, get_error_name, init,
};
use ipc::{
    ipc_close_mem_handle, ipc_get_event_handle, ipc_get_mem_handle, ipc_open_event_handle,
    ipc_open_mem_handle,
};
use memory::{
    mem_alloc, mem_free, mem_free_host, mem_get_address_range, mem_get_info, mem_host_alloc,
    mem_host_register, mem_host_unregister, memcpy_async, memcpy_batch_async,
    memcpy_batch_async_v2, memset_d8_async, pointer_get_attributes,
};
use module::{launch_kernel, module_get_function, module_load_data_ex, module_unload};
use pool::{
    mem_pool_destroy, mem_pool_export_handle, mem_pool_export_pointer, mem_pool_import_handle,
    mem_pool_import_pointer, mem_pool_set_access,
};
use stream::{
    event_create, event_destroy, event_query, event_record, event_synchronize, stream_add_callback,
    stream_create_with_priority, stream_destroy, stream_is_capturing, stream_query,
    stream_synchronize, stream_wait_event,
};
use virtual_memory::{
    mem_address_free, mem_address_reserve, mem_create, mem_export_handle,
    mem_get_allocation_granularity, mem_get_allocation_properties, mem_import_handle, mem_map,
    mem_release, mem_retain_allocation_handle, mem_set_access, mem_unmap,
};

use super::super::api::Api;
use super::capture::exchange_mode;

pub(in crate::cuda) fn api() -> Api {
    Api {
        pointer_get_attributes: Some(pointer_get_attributes),
        init,
        driver_get_version,
        device_get_count,
        get_error_name,
        device_get,
        device_get_name,
        device_get_uuid,
        device_get_attribute,
        device_get_pci_bus_id,
        device_total_mem,
        device_can_access_peer,
        device_get_p2p_attribute,
        device_primary_ctx_retain,
        thread_exchange_stream_capture_mode: exchange_mode,
        ctx_get_current,
        ctx_set_current,
        ctx_synchronize,
        ctx_get_stream_priority_range,
        ctx_enable_peer_access,
        mem_get_info,
        mem_alloc,
        mem_free,
        mem_get_address_range,
        mem_host_alloc,
        mem_free_host,
        mem_host_register,
        mem_host_unregister,
        memcpy_async,
        memset_d8_async,
        stream_create_with_priority,
        stream_destroy,
        stream_query,
        stream_synchronize,
        stream_wait_event,
        stream_is_capturing,
        stream_add_callback,
        event_create,
        event_destroy,
        event_record,
        event_query,
        event_synchronize,
        ipc_get_mem_handle,
        ipc_open_mem_handle,
        ipc_close_mem_handle,
        ipc_get_event_handle,
        ipc_open_event_handle,
        module_load_data_ex,
        module_unload,
        module_get_function,
        launch_kernel,
        device_get_uuid_v2: None,
        mem_pool_export_handle: Some(mem_pool_export_handle),
        mem_pool_import_handle: Some(mem_pool_import_handle),
        mem_pool_export_pointer: Some(mem_pool_export_pointer),
        mem_pool_import_pointer: Some(mem_pool_import_pointer),
        mem_pool_set_access: Some(mem_pool_set_access),
        mem_pool_destroy: Some(mem_pool_destroy),
        mem_get_allocation_granularity: Some(mem_get_allocation_granularity),
        mem_create: Some(mem_create),
        mem_retain_allocation_handle: Some(mem_retain_allocation_handle),
        mem_get_allocation_properties: Some(mem_get_allocation_properties),
        mem_export_handle: Some(mem_export_handle),
        mem_import_handle: Some(mem_import_handle),
        mem_release: Some(mem_release),
        mem_address_reserve: Some(mem_address_reserve),
        mem_address_free: Some(mem_address_free),
        mem_map: Some(mem_map),
        mem_unmap: Some(mem_unmap),
        mem_set_access: Some(mem_set_access),
        memcpy_batch_async: Some(memcpy_batch_async),
        memcpy_batch_async_v2: Some(memcpy_batch_async_v2),
    }
}
