//! Who the city is: bureaus with Chinese names, and what runs for them.

/// Bureaus.
pub(crate) const TENANTS: u32 = 200;
/// Business systems, spread over the bureaus.
pub(crate) const SYSTEMS: u32 = 698;

const DISTRICTS: [&str; 10] = [
    "滨江区",
    "城东区",
    "城南区",
    "城西区",
    "城北区",
    "高新区",
    "临港区",
    "开发区",
    "新城区",
    "郊县",
];
const OFFICES: [&str; 20] = [
    "公安局",
    "教育局",
    "民政局",
    "财政局",
    "水务局",
    "交通运输局",
    "卫生健康委员会",
    "规划和自然资源局",
    "住房和城乡建设局",
    "人力资源和社会保障局",
    "生态环境局",
    "农业农村局",
    "商务局",
    "文化和旅游局",
    "审计局",
    "市场监督管理局",
    "应急管理局",
    "统计局",
    "医疗保障局",
    "政务服务数据管理局",
];

/// The bureau of a number.
pub(crate) fn tenant(number: u32) -> String {
    format!("bureau-{number}")
}

/// The system of a number.
pub(crate) fn system_name(number: u32) -> String {
    format!("system-{number}")
}

/// The instance of a number.
pub(crate) fn instance(number: u32) -> String {
    format!("web-{number}")
}

/// What people read of a bureau.
pub(crate) fn bureau(number: u32) -> String {
    let district = picked(&DISTRICTS, number / 20);
    format!("{district}{}", office(number))
}

/// What people read of a bureau's kind.
pub(crate) fn office(number: u32) -> &'static str {
    picked(&OFFICES, number)
}

fn picked(words: &[&'static str], number: u32) -> &'static str {
    let at = usize::try_from(number).unwrap_or_default() % words.len();
    words[at]
}
