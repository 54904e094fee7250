//! All names that a controller exports. Units are base units.

kapok_metrics::names! {
    "the process" {
        BUILD = info "kapok_build", "What runs here, by version";
        TLS_REFUSALS = counter "kapok_tls_refusals", "Connections that were refused at the handshake or before, by port and reason";
        REFUSED = counter "kapok_requests_refused", "Requests that were refused: not allowed, not proven, or too many";
        CONNECTIONS = gauge "kapok_connections", "Open connections whose other end showed a certificate, accepted and dialled";
        LINKS = gauge "kapok_controller_links", "Nodes whose agent is connected";
        EVENT_STREAMS = gauge "kapok_controller_event_streams", "Streams of events that people have open";
        CERTIFICATE_EXPIRY = gauge "kapok_certificate_expiry_timestamp_seconds", "When a certificate ends: this controller's, each node's as last shown, each trusted authority's";
        DROPPED = counter "kapok_metrics_dropped_series", "Series that were left out of pages because there were too many";
    }
    "ledger and store" {
        EPOCH = gauge "kapok_controller_epoch", "The leadership under which the log is written, as far as this controller knows";
        LEADS = gauge "kapok_controller_leads", "Whether this controller leads: it alone shows nodes";
        FOLLOWERS = gauge "kapok_controller_followers", "Controllers that follow this one and could take over at once";
        BEHIND = gauge "kapok_controller_behind_entries", "Entries of the log that a follower was behind when it last said so";
        HEAD = gauge "kapok_audit_head_sequence", "Number of the log's last entry";
        QUEUE = gauge "kapok_ledger_queue_depth", "Commands that wait for the ledger";
        BATCHES = histogram "kapok_ledger_batch_commands", "Commands that one append made durable";
        DECISIONS = histogram "kapok_ledger_decision_duration_seconds", "How long deciding a command took";
        COMMANDS = counter "kapok_ledger_commands", "Commands that were taken or refused";
        APPENDS = histogram "kapok_store_append_duration_seconds", "How long appends to the log took";
        STORE_CALLS = counter "kapok_store_calls", "Calls to the store's servers, each attempt on its own";
        STORE_FAILED = counter "kapok_store_call_failures", "Calls to the store's servers without an answer that could be used";
        STORE_SECONDS = counter "kapok_store_call_duration_seconds", "How long calls to the store's servers took together";
        STORE_UP = gauge "kapok_store_member_up", "Whether a member of the store answers, as of the last look";
        STORE_DATABASE = gauge "kapok_store_member_database_bytes", "The size of a member's database";
        STORE_USED = gauge "kapok_store_member_used_bytes", "What of a member's database is in use";
        STORE_QUOTA = gauge "kapok_store_member_quota_bytes", "The size at which a member takes no more writes, if it says so";
        STORE_LATENCY = gauge "kapok_store_member_latency_seconds", "How long a member took to answer, at the last look";
        STORE_ALARMS = gauge "kapok_store_member_alarms", "Alarms that a member has raised and nobody disarmed";
        FAILED_APPENDS = counter "kapok_store_append_failures", "Appends that failed, or whose outcome is unknown";
    }
    "scheduler and operations" {
        PLACEMENTS = counter "kapok_scheduler_placements", "Requests for a place, by outcome";
        PASSED_OVER = counter "kapok_scheduler_passed_over", "Nodes that were passed over where no node had room, by the filter that did";
        QUOTA_REFUSALS = counter "kapok_quota_refusals", "Requests for which a quota had no room, by the dimension in which it had none";
        OPERATIONS_RUNNING = gauge "kapok_operations_running", "Operations under way, by kind";
        OPERATIONS_ENDED = counter "kapok_operations_ended", "Operations that ended, by outcome";
        INSTANCES = gauge "kapok_instances", "Instances that exist as intent";
        TENANTS = gauge "kapok_tenants", "Tenants";
        IMAGES = gauge "kapok_images", "Images";
    }
    "nodes" {
        NODES = gauge "kapok_nodes", "Nodes by state";
        NODE_STATE = gauge "kapok_fabric_node_state", "The state that a node is in";
        HEARTBEAT_AGE = gauge "kapok_fabric_node_heartbeat_age_seconds", "Time since a node's last life sign";
        CORDONED = gauge "kapok_fabric_node_cordoned", "Whether people keep new instances off a node";
        NODE_INSTANCES = gauge "kapok_fabric_node_incarnations", "Incarnations that hold a claim on a node";
        NODE_FOREIGN = gauge "kapok_fabric_node_foreign_domains", "Domains on a node that Kapok did not make";
        VCPUS_CAPACITY = gauge "kapok_fabric_node_capacity_vcpus", "vCPUs that a node can carry";
        VCPUS_CLAIMED = gauge "kapok_fabric_node_claimed_vcpus", "vCPUs that are claimed of a node";
        MEMORY_CAPACITY = gauge "kapok_fabric_node_capacity_memory_bytes", "Memory of a node that can be claimed";
        MEMORY_CLAIMED = gauge "kapok_fabric_node_claimed_memory_bytes", "Memory that is claimed of a node";
    }
    "their health" {
        CONDITIONS = gauge "kapok_fabric_nodes_condition", "Nodes by condition; those that were never judged are in none";
        QUARANTINED = gauge "kapok_fabric_nodes_quarantined", "Nodes that their verdicts keep new instances off";
        HELD = gauge "kapok_fabric_nodes_held", "Nodes whose quarantine the brake holds back";
        RELEASED = gauge "kapok_fabric_nodes_released", "Nodes for which a person's word goes before their verdicts";
        DRAINS = gauge "kapok_fabric_nodes_drain_requested", "Nodes whose instances were asked to move";
        QUARANTINE = gauge "kapok_fabric_node_quarantine", "Whether a node is in quarantine, held or released";
        VERDICT = gauge "kapok_fabric_node_verdict", "What is wrong with a node's component, one series for each verdict";
    }
}
