// The small graph job of `pulsegraph bench state` on Kafka Streams, run by Java's single-file launcher:
//   java -cp 'jars/*' GraphJob.java '{"bootstrap": ..., see infra/bench/graph_job.py}'
// The last line on stdout is what infra.bench.graph_job.Outcome reads.

import com.fasterxml.jackson.annotation.JsonFormat;
import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonPropertyOrder;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.apache.kafka.streams.state.Stores;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;

public class GraphJob {
    static final String STORE = "graph";
    static final double DECAY_PER_MS = Math.log(2) / (28L * 86_400_000L);
    static final long SESSION_GAP_MS = 1_800_000L;
    static final int TAIL_EVENTS = 64;
    static final ObjectMapper JSON = new ObjectMapper();

    static final OperatingSystemMXBean PROCESS =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    static final AtomicLong count = new AtomicLong();
    static final CountDownLatch done = new CountDownLatch(1);
    static volatile long beganNs;
    static volatile long stoppedNs;
    static volatile long cpuNs;

    @JsonIgnoreProperties(ignoreUnknown = true)
    public static class Event {
        public String customer_id;
        public String item_id;
        public long event_ts_ms;
    }

    @JsonFormat(shape = JsonFormat.Shape.ARRAY)
    @JsonPropertyOrder({"weight", "count", "last_ms"})
    public static class Edge {
        public double weight;
        public long count;
        public long last_ms;
    }

    @JsonFormat(shape = JsonFormat.Shape.ARRAY)
    @JsonPropertyOrder({"ms", "item"})
    public static class Seen {
        public long ms;
        public String item;
    }

    public static class Graph {
        public long n;
        public Map<String, Edge> edges = new HashMap<>();
        public List<Seen> tail = new ArrayList<>();
    }

    static class Apply implements Processor<String, byte[], Void, Void> {
        private final long warm;
        private final long take;
        private KeyValueStore<String, Graph> store;

        Apply(long warm, long take) {
            this.warm = warm;
            this.take = take;
        }

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            store = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<String, byte[]> record) {
            Event event = read(record.value(), Event.class);
            Graph graph = store.get(event.customer_id);
            if (graph == null) {
                graph = new Graph();
            }
            Edge edge = graph.edges.get(event.item_id);
            if (edge == null) {
                edge = new Edge();
                edge.weight = 1.0;
                graph.edges.put(event.item_id, edge);
            } else {
                edge.weight = edge.weight * Math.exp((edge.last_ms - event.event_ts_ms) * DECAY_PER_MS) + 1.0;
            }
            edge.count++;
            edge.last_ms = event.event_ts_ms;
            int size = graph.tail.size();
            if (size > 0 && event.event_ts_ms - graph.tail.get(size - 1).ms > SESSION_GAP_MS) {
                graph.tail.clear();
            } else if (size == TAIL_EVENTS) {
                graph.tail.remove(0);
            }
            Seen seen = new Seen();
            seen.ms = event.event_ts_ms;
            seen.item = event.item_id;
            graph.tail.add(seen);
            graph.n++;
            store.put(event.customer_id, graph);
            long reached = count.incrementAndGet();
            if (reached == warm) {
                beganNs = System.nanoTime();
                cpuNs = PROCESS.getProcessCpuTime();
            } else if (reached == take) {
                stoppedNs = System.nanoTime();
                cpuNs = PROCESS.getProcessCpuTime() - cpuNs;
                done.countDown();
            }
        }
    }

    /** One block cache for all partitions, as large as every other contender's. */
    public static class Rocks implements RocksDBConfigSetter {
        static long blockCacheBytes;
        static Cache cache;

        @Override
        public synchronized void setConfig(String name, Options options, Map<String, Object> configs) {
            synchronized (Rocks.class) {
                if (cache == null) {
                    cache = new LRUCache(blockCacheBytes);
                }
            }
            BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
            table.setBlockCache(cache);
            options.setTableFormatConfig(table);
        }

        @Override
        public void close(String name, Options options) {
            // The cache is shared and ends with the process.
        }
    }

    public static void main(String[] args) throws Exception {
        JsonNode job = JSON.readTree(args[0]);
        long warm = job.get("warm").asLong();
        long take = job.get("take").asLong();
        Rocks.blockCacheBytes = job.get("block_cache_bytes").asLong();

        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, job.get("app").asText());
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, job.get("bootstrap").asText());
        config.put(StreamsConfig.STATE_DIR_CONFIG, job.get("folder").asText());
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, job.get("guarantee").asText());
        if (job.get("guarantee").asText().equals("at_least_once")) {
            config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, job.get("commit_ms").asLong());
        }
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, job.get("cache_bytes").asLong());
        config.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, Rocks.class);
        config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");

        Serde<Graph> serde =
                Serdes.serdeFrom((topic, graph) -> write(graph), (topic, bytes) -> read(bytes, Graph.class));
        Topology topology = new Topology();
        topology.addSource(
                "events", new StringDeserializer(), new ByteArrayDeserializer(), job.get("topic").asText());
        topology.addProcessor(STORE, () -> new Apply(warm, take), "events");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), Serdes.String(), serde)
                        .withCachingEnabled(),
                STORE);

        KafkaStreams streams = new KafkaStreams(topology, config);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        done.await();
        String totals = totals(streams);
        streams.close(Duration.ofSeconds(60));
        System.out.printf(
                "{\"events\": %d, \"seconds\": %.6f, \"cpu_s\": %.6f, \"totals\": %s}%n",
                take - warm, (stoppedNs - beganNs) / 1e9, cpuNs / 1e9, totals);
        System.exit(0);
    }

    static String totals(KafkaStreams streams) {
        long customers = 0;
        long events = 0;
        long edges = 0;
        long tail = 0;
        double weight = 0;
        var store = streams.store(
                StoreQueryParameters.fromNameAndType(STORE, QueryableStoreTypes.<String, Graph>keyValueStore()));
        try (KeyValueIterator<String, Graph> all = store.all()) {
            while (all.hasNext()) {
                KeyValue<String, Graph> entry = all.next();
                customers++;
                events += entry.value.n;
                tail += entry.value.tail.size();
                for (Edge edge : entry.value.edges.values()) {
                    edges += edge.count;
                    weight += edge.weight;
                }
            }
        }
        return String.format(
                "{\"customers\": %d, \"events\": %d, \"edges\": %d, \"weight\": %.9f, \"tail\": %d}",
                customers, events, edges, weight, tail);
    }

    static <T> T read(byte[] bytes, Class<T> type) {
        if (bytes == null) {
            return null;
        }
        try {
            return JSON.readValue(bytes, type);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    static byte[] write(Object value) {
        try {
            return value == null ? null : JSON.writeValueAsBytes(value);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
