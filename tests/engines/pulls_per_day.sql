-- Pulls and bytes per image and day (UTC).
SELECT folder, image, CAST(started_at AS DATE) AS day, count(*) AS pulls,
    count(*) FILTER (verdict = 'interrupted') AS interrupted, sum(sent) AS bytes
FROM pulls
WHERE verdict <> 'up to date'
GROUP BY ALL
ORDER BY bytes DESC NULLS LAST, folder, image, day;
