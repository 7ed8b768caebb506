"""The honest report: fill `data.ReportData`, call `render.render_report`."""
