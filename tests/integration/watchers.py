"""Many watchers of one job in one process, apart from the test: python3 watchers.py STUBS PORT JOB COUNT

Prints "watching" when every watcher has its snapshot, and at the end a JSON object: per watcher the states seen,
faults of the sequence, and over all the lag from an event's time to its receipt.
"""

import asyncio
import gc
import json
import sys
import time

STREAMS_PER_CONNECTION = 50


async def watch(call, request, record, started):
    """Receipt times and bytes only: reading them is left for later, so that it delays nothing."""
    async for data in call(request):
        record.append((time.time(), data))
        if len(record) == 1:
            started()


async def main(stubs, port, job, count):
    sys.path.append(stubs)
    import grpc.aio
    from orthomerge.v1 import merge_job_event_pb2, merge_job_pb2, merge_service_pb2
    request = merge_service_pb2.WatchMergeJobRequest(name=job).SerializeToString()
    waiting = [count]

    def started():
        waiting[0] -= 1
        if waiting[0] == 0:
            print("watching", flush=True)

    records = [[] for _ in range(count)]
    channels, tasks = [], []
    for i in range(count):
        if i % STREAMS_PER_CONNECTION == 0:
            channels.append(grpc.aio.insecure_channel(f"127.0.0.1:{port}",
                                                      options=[("grpc.use_local_subchannel_pool", 1)]))
        call = channels[-1].unary_stream("/orthomerge.v1.MergeService/WatchMergeJob")
        tasks.append(asyncio.create_task(watch(call, request, records[i], started)))
    gc.disable()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()
    print(json.dumps(summary(records, done, merge_job_event_pb2.MergeJobEvent, merge_job_pb2.MergeJob.State)))


def summary(records, done, event_type, states):
    lags, problems, seen, messages = {"progress": [], "state_change": []}, [], set(), 0
    for number, (record, error) in enumerate(zip(records, done)):
        if error is not None:
            problems.append(f"{number}: {type(error).__name__} {str(error)[:100]}")
        sequence, names = 0, []
        for place, (received, data) in enumerate(record):
            message = event_type.FromString(data)
            kind = message.WhichOneof("event")
            messages += 1
            if (kind == "snapshot") != (place == 0) or message.gap:
                problems.append(f"{number}: {kind} as message {place}, gap {message.gap}")
            durable = kind in ("state_change", "metrics", "warning")
            if place > 0 and message.sequence != sequence + durable:
                problems.append(f"{number}: {kind} {message.sequence} after {sequence}")
            sequence = message.sequence
            if kind == "state_change":
                names.append(states.Name(message.state_change.state).removeprefix("STATE_"))
            if kind in lags:
                lags[kind].append(received - message.event_time.ToNanoseconds() / 1e9)
        seen.add((sequence, *names))
    result = {"watchers": len(records), "messages": messages, "problems": problems[:10],
              "seen": sorted(map(list, seen))}
    for kind, values in lags.items():
        values.sort()
        result[kind] = {"count": len(values), **{f"p{share}": values[min(len(values) - 1, len(values) * share // 100)]
                                                 for share in (50, 99, 100) if values}}
    return result


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
