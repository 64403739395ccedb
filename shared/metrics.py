"""Every number a service counts, in one place; each process has one registry, served under /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The instruments. Labels are closed sets: topics, outcomes, routes; never ids."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry(auto_describe=True)
        # HTTP requests answered, by route template; the count is in it. Streams count until their end.
        self.http_seconds = Histogram(
            "http_request_seconds", "Time to answer", ["method", "route", "status"], buckets=SECONDS, registry=registry
        )
        # Kafka records handled: done, later (put back), retried, dead_letter, skipped (tombstone or unknown type).
        self.messages = Counter("messages_total", "Records handled", ["topic", "outcome"], registry=registry)
        # One handler's turn: a message, or a whole batch.
        self.handler_seconds = Histogram(
            "handler_seconds", "Time of one handler's turn", ["topic"], buckets=SECONDS, registry=registry
        )
        # Events sent: acked, failed, dropped (too large, taken out of its outbox unsent).
        self.published = Counter("published_total", "Events sent", ["topic", "outcome"], registry=registry)
        # Time until the broker's ack.
        self.publish_seconds = Histogram(
            "publish_seconds", "Time to the broker's ack", ["topic"], buckets=SECONDS, registry=registry
        )
        # Records between the group's position and the end of the topic.
        self.consumer_lag = Gauge("consumer_lag", "Records not yet handled", ["topic"], registry=registry)
        # The same as the gateway sees it, for the topics it must not fill faster than they are read.
        self.backlog = Gauge("backlog_records", "Accepted records not yet handled", ["topic"], registry=registry)
        # Requests answered 503 because a reader is behind or the disk is full, by topic and reason.
        self.turned_away = Counter("turned_away_total", "Requests not taken", ["topic", "reason"], registry=registry)
        # Where accepted things lie.
        self.disk_free_bytes = Gauge("disk_free_bytes", "Free bytes of the gateway's disk", registry=registry)
        # Dead letters that no operator replayed or dropped; every process of a service shows the same, so take the max.
        self.dead_letters = Gauge(
            "dead_letters_unresolved", "Dead letters nobody dealt with", ["topic", "service"], registry=registry
        )
        # Events waiting inside documents for the relay, as of its last scan.
        self.outbox_pending = Gauge("outbox_pending", "Documents with unpublished events", registry=registry)
        # Jobs worked: done, later (back-off), rejected, handed_back (the input changed), stale (another worker had it).
        self.jobs = Counter("jobs_total", "Jobs worked", ["collection", "outcome"], registry=registry)
        # One attempt at a job.
        self.job_seconds = Histogram(
            "job_seconds", "Time of one attempt", ["collection"], buckets=SECONDS, registry=registry
        )
        # Samples decided by ingest: stored, duplicate, corrected, refused.
        self.samples = Counter("samples_total", "Samples decided", ["outcome"], registry=registry)
        # Webhook attempts: delivered, failed, cancelled, given_up.
        self.deliveries = Counter("deliveries_total", "Webhook attempts", ["outcome"], registry=registry)
        # Live streams open at the gateway.
        self.live_streams = Gauge("live_streams", "Open live streams", registry=registry)
        # Live streams cut off because their reader took nothing.
        self.live_streams_cut = Counter("live_streams_cut_total", "Stalled live streams cut off", registry=registry)
        # Spans lost because the trace store did not take them, or the queue was full.
        self.spans_lost = Counter("spans_lost_total", "Spans not delivered", registry=registry)


METRICS = Metrics()
