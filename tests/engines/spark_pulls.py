"""spark-submit spark_pulls.py ROOT OUT: the pulls of many registries, as `pulls --json` has them.

ROOT has a folder per registry, with its log.log* and registry.log* (.gz too), anywhere that Spark
can read. OUT gets a JSON object per pull, with the name of its folder as one more member.
All cores read lines. One Tracker per folder then takes that folder's facts in the order of their
time, as they come out of Spark's sorted shuffle: no folder has to fit in memory. Less than a folder
would not do: a pull's image, and its verdict, may depend on what other clients and agents asked.
"""
import collections
import itertools
import json
import sys
import time

from pyspark.sql import SparkSession

import listener


def facts(rows):
    """((folder, time, whether a log line, its place), Fact as a tuple), of each line with one."""
    for (path, block), some in itertools.groupby(rows, key=lambda row: (row.path, row.block)):
        folder, name = path.split("/")[-2:]
        parse = listener.logged_line if name.startswith("registry") else listener.logged_event
        lines = (bytes(row.line) + b"\n" for row in some)
        for place, fact in enumerate(listener.parse_all(lines, parse, collections.Counter())):
            yield (folder, fact.time, not fact.event, path, block, place), tuple(fact)


def pulls(sorted_facts, now):
    for folder, some in itertools.groupby(sorted_facts, key=lambda one: one[0][0]):
        told = (listener.Fact(*fact) for _, fact in some)
        for found in listener.pull_objects(told, (), now):
            yield json.dumps({"folder": folder, **found})


if __name__ == "__main__":
    root, out = sys.argv[1:]
    now = time.time()
    spark = SparkSession.builder.getOrCreate()
    spark.sparkContext.addPyFile(listener.__file__)
    files = spark.read.text(f"{root}/*/{{log.log,registry.log}}*", lineSep="\n")
    folders = sorted({path.split("/")[-2] for path in files.inputFiles()})
    (files.selectExpr("CAST(value AS BINARY) AS line", "_metadata.file_path AS path",
                      "_metadata.file_block_start AS block")
     .rdd.mapPartitions(facts)
     .repartitionAndSortWithinPartitions(len(folders), lambda key: folders.index(key[0]))
     .mapPartitions(lambda sorted_facts: pulls(sorted_facts, now)).saveAsTextFile(out))
