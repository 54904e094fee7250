//! All names that an agent exports, but those of [`compat`](super::compat).
//!
//! Units are base units. Labels are named where the series are written.

kapok_metrics::names! {
    "the process" {
        BUILD = info "kapok_build", "What runs here, by version";
        CERTIFICATE_EXPIRY = gauge "kapok_certificate_expiry_timestamp_seconds", "When the certificate ends, since 1970";
        TLS_REFUSALS = counter "kapok_tls_refusals", "Connections that were refused before they were served, by reason";
        EPOCH = gauge "kapok_agent_epoch", "The highest epoch that the agent has stored";
        NEEDS_RESYNC = gauge "kapok_agent_needs_resync", "Whether creates wait for the controller's full intent";
        STREAMS = gauge "kapok_agent_streams", "Open streams of controllers";
        STORE_WRITES = histogram "kapok_agent_store_write_duration_seconds", "How long writes of the local store took";
        INSTANCES = gauge "kapok_agent_instances", "Incarnations by phase";
        ACTIONS = counter "kapok_agent_actions", "Actions on domains, disks and images that have ended, by action and outcome";
        CONSOLE_BYTES = counter "kapok_agent_console_bytes", "Bytes that guests wrote to consoles that somebody had open";
        CONSOLE_DROPPED = counter "kapok_agent_console_dropped_bytes", "Bytes of these that were dropped because nobody read them in time";
        DROPPED = counter "kapok_metrics_dropped_series", "Series that were left out of pages because there were too many";
    }
    "the hypervisor" {
        HYPERVISOR_UP = gauge "kapok_hypervisor_up", "Whether the hypervisor answers";
        EVENTS = counter "kapok_hypervisor_events", "Events that the hypervisor told of by itself";
        EVENTS_DROPPED = counter "kapok_hypervisor_events_dropped", "Events that were dropped because too many waited; everything was looked at instead";
        HINTS = counter "kapok_hypervisor_hints", "Hints to look, made of events: many about one domain are one";
        CALLS = histogram "kapok_hypervisor_call_duration_seconds", "How long calls to the hypervisor took, by lane";
        LANE_DEPTH = gauge "kapok_lane_depth", "Calls that wait or run, by lane";
        LANE_STUCK = gauge "kapok_lane_stuck_seconds", "How long a lane has served nobody although somebody waits, or has been blocked";
    }
    "the node" {
        NODE = info "kapok_node", "The node, by id, name, versions and what runs its guests";
        CPUS = gauge "kapok_node_cpus", "Processor threads that are online";
        MEMORY = gauge "kapok_node_memory_bytes", "The machine's memory";
        MEMORY_AVAILABLE = gauge "kapok_node_memory_available_bytes", "Memory that could be handed out without swapping, by the kernel's word";
        CAPACITY_MEMORY = gauge "kapok_node_capacity_memory_bytes", "Memory that instances may claim";
        CLAIMED_MEMORY = gauge "kapok_node_claimed_memory_bytes", "Memory of the instances that are defined here, without their QEMU's own";
        CLAIMED_VCPUS = gauge "kapok_node_claimed_vcpus", "vCPUs of the instances that are defined here";
        FOREIGN_MEMORY = gauge "kapok_node_foreign_memory_bytes", "Memory of domains that Kapok did not make";
        FOREIGN_VCPUS = gauge "kapok_node_foreign_vcpus", "vCPUs of domains that Kapok did not make";
        BOOT = gauge "kapok_node_boot_timestamp_seconds", "When the node booted, since 1970";
        LOAD = gauge "kapok_node_load", "Tasks that run or wait, averaged over a window";
        CPU_TIME = counter "kapok_node_cpu_seconds", "Processor time of all threads, by mode";
        HOST_AGE = gauge "kapok_node_sample_age_seconds", "Age of what is shown of the kernel's numbers";
    }
    "its health" {
        CONDITION = gauge "kapok_node_condition", "Whether the node is in this condition";
        COMPONENT = gauge "kapok_node_component_condition", "A component's condition: 0 healthy, 1 degraded, 2 unknown, 3 failing";
        VERDICT = gauge "kapok_node_verdict", "What is wrong with a component, one series for each verdict";
        READING = gauge "kapok_node_reading", "What a source read of a component";
        UNREADABLE = gauge "kapok_node_reading_unreadable", "A reading that is there and could not be read";
        SOURCE_READABLE = gauge "kapok_node_source_readable", "Whether a source of readings could be read when it was last asked";
        SOURCE_AGE = gauge "kapok_node_source_age_seconds", "Time since a source of readings was asked";
        HEALTH_AGE = gauge "kapok_node_assessment_age_seconds", "Age of the node's assessment";
    }
    "domains" {
        GLANCE_AGE = gauge "kapok_domains_sample_age_seconds", "Age of what is shown of all domains together";
        DOMAIN = info "kapok_domain", "A domain, with the instance that it is an incarnation of";
        DOMAIN_STATE = gauge "kapok_domain_state", "The state that a domain is in";
        DOMAIN_STUCK = gauge "kapok_domain_stuck", "Whether a domain's QEMU doesn't answer";
        DOMAIN_AGE = gauge "kapok_domain_sample_age_seconds", "Age of what is shown of a domain";
        DOMAIN_CPU = counter "kapok_domain_cpu_seconds", "Processor time that a domain has used";
        DOMAIN_VCPUS = gauge "kapok_domain_vcpus", "Virtual processors that are on";
        DOMAIN_MEMORY_MAXIMUM = gauge "kapok_domain_memory_maximum_bytes", "Memory that a guest may use at most";
        DOMAIN_MEMORY_BALLOON = gauge "kapok_domain_memory_balloon_bytes", "Memory that its balloon leaves a guest";
        DOMAIN_MEMORY_RESIDENT = gauge "kapok_domain_memory_resident_bytes", "Memory of the host that a domain holds";
        DOMAIN_MEMORY_AVAILABLE = gauge "kapok_domain_memory_available_bytes", "Memory that a guest says it has";
        DOMAIN_MEMORY_UNUSED = gauge "kapok_domain_memory_unused_bytes", "Memory that a guest says nobody uses";
        DOMAIN_MEMORY_USABLE = gauge "kapok_domain_memory_usable_bytes", "Memory that a guest says it could hand out without swapping";
        DISK_READS = counter "kapok_domain_disk_read_requests", "Reads of a disk";
        DISK_READ_BYTES = counter "kapok_domain_disk_read_bytes", "Bytes read from a disk";
        DISK_READ_TIME = counter "kapok_domain_disk_read_seconds", "Time that reads of a disk took";
        DISK_WRITES = counter "kapok_domain_disk_write_requests", "Writes to a disk";
        DISK_WRITE_BYTES = counter "kapok_domain_disk_write_bytes", "Bytes written to a disk";
        DISK_WRITE_TIME = counter "kapok_domain_disk_write_seconds", "Time that writes to a disk took";
        DISK_FLUSHES = counter "kapok_domain_disk_flush_requests", "Flushes of a disk";
        DISK_CAPACITY = gauge "kapok_domain_disk_capacity_bytes", "Size of a disk as its guest sees it";
        DISK_PHYSICAL = gauge "kapok_domain_disk_physical_bytes", "What a disk takes on the host";
        NET_RECEIVE_BYTES = counter "kapok_domain_network_receive_bytes", "Bytes that a guest received";
        NET_RECEIVE_PACKETS = counter "kapok_domain_network_receive_packets", "Packets that a guest received";
        NET_RECEIVE_ERRORS = counter "kapok_domain_network_receive_errors", "Broken packets on their way to a guest";
        NET_RECEIVE_DROPS = counter "kapok_domain_network_receive_drops", "Packets on their way to a guest that were dropped";
        NET_TRANSMIT_BYTES = counter "kapok_domain_network_transmit_bytes", "Bytes that a guest sent";
        NET_TRANSMIT_PACKETS = counter "kapok_domain_network_transmit_packets", "Packets that a guest sent";
        NET_TRANSMIT_ERRORS = counter "kapok_domain_network_transmit_errors", "Broken packets that a guest sent";
        NET_TRANSMIT_DROPS = counter "kapok_domain_network_transmit_drops", "Packets that a guest sent and that were dropped";
    }
}
