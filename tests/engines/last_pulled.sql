-- When each tag (or digest, if asked for without a tag) was last used, the longest unused first.
-- A HEAD counts: it is how docker asks whether the image that it has is still the newest. NULL: it
-- was pushed, and never pulled since.
SELECT folder, target.repository AS repository, coalesce(target.tag, target.digest) AS tag,
    max(time) FILTER (action = 'pull') AS last_pulled,
    max(time) FILTER (action = 'push') AS last_pushed
FROM events
WHERE NOT is_blob AND action IN ('pull', 'push')
GROUP BY ALL
ORDER BY last_pulled NULLS FIRST, folder, repository, tag;
