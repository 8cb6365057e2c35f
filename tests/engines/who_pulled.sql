-- Who pulled which image, how often, and when last.
SELECT folder, image, "user", client, count(*) AS pulls, max(started_at) AS last
FROM pulls
WHERE verdict <> 'up to date'
GROUP BY ALL
ORDER BY folder, image, last DESC, "user", client;
